// SPDX-License-Identifier: Apache-2.0

// Package modules has one fx module for each part of a program, and the schemes
// that its URI may have. Package app puts them together; start there.
//
// A module provides its part under the interface of package core and closes it
// when the application stops. To add an implementation, give app.New a
// [Scheme]; to replace a part whatever the configuration says, an fx.Decorate or
// fx.Replace of its interface.
//
// The constructors of the parts know nothing of fx: whoever does not want a
// container calls sqlite.Open, pure.New, client.Open and so on.
package modules

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
)

// An Opener opens the part T for the URIs of one scheme.
type Opener[T any] struct {
	Scheme string
	Open   func(context.Context, config.URI) (T, error)
}

const group = `group:"openers"` // of each type T its own

// Scheme adds an implementation of T.
func Scheme[T any](name string, open func(context.Context, config.URI) (T, error)) fx.Option {
	return fx.Provide(fx.Annotate(func() Opener[T] { return Opener[T]{name, open} }, fx.ResultTags(group)))
}

// part provides the T that the configuration names, and closes it at the end.
func part[T any](name string, uri func(config.Config) string) fx.Option {
	return fx.Provide(fx.Annotate(func(c config.Config, openers []Opener[T], lc fx.Lifecycle) (t T, err error) {
		u, err := c.URI(uri(c))
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		i := slices.IndexFunc(openers, func(o Opener[T]) bool { return o.Scheme == u.Scheme })
		if i < 0 {
			return t, fmt.Errorf("%s %q: no such scheme; there is %s: %w", name, u, schemes(openers), core.ErrUnsupported)
		}
		if t, err = openers[i].Open(context.Background(), u); err != nil {
			return t, fmt.Errorf("%s %q: %w", name, u, err)
		}
		if closer, ok := any(t).(io.Closer); ok {
			lc.Append(fx.StopHook(closer.Close))
		}
		return t, nil
	}, fx.ParamTags("", group)))
}

func schemes[T any](openers []Opener[T]) string {
	var names []string
	for _, o := range openers {
		names = append(names, o.Scheme+":")
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
