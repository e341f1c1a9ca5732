// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"net/url"
	"strings"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/manual"
)

// Issuer is who vouches for the client: with "basic:" nobody does; with
// "localca:CERTIFICATES?key=KEY" whoever has the key of a CA; with "acme:DIRECTORY" a server,
// see [ACME]; with "manual:" somebody who is brought a request and gives a certificate; with
// "plugin:NAME" a plugin. A CA, a server and a plugin are opened when they are first asked.
func Issuer() fx.Option {
	return fx.Module("issuer",
		part[core.CredentialIssuer]("issuer", func(c config.Config) string { return c.Issuer }),
		Scheme("basic", func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
			return basic.New(), u.Nothing()
		}),
		Scheme("manual", func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
			return manual.New(manual.Config{}), u.Nothing()
		}),
		fx.Provide(newCaller, fx.Annotate(localCA, fx.ResultTags(group)), fx.Annotate(openACME, fx.ResultTags(group)),
			fx.Annotate(pluginIssuer, fx.ResultTags(group))))
}

// IssuerFrom is the URI of an issuer with paths that begin at a folder made absolute.
func IssuerFrom(folder, text string) (string, error) {
	c := config.Config{Folder: folder}
	u, err := c.URI(text)
	if err != nil {
		return "", err
	}
	switch u.Scheme {
	case "localca":
		ca, err := parseLocalCA(u)
		if err != nil {
			return "", err
		}
		_, query, _ := strings.Cut(text, "?")
		options, _, _ := strings.Cut("&"+query, "&key=")
		if !strings.HasPrefix(ca.key, hsm.Scheme+":") {
			ca.key = c.File(ca.key)
		}
		return config.FileURI("localca", ca.certificates) + "?" + strings.TrimPrefix(options+"&key="+ca.key, "&"), nil
	case "acme":
		if _, err := ParseACME(c, u); err != nil {
			return "", err
		}
		address, query, found := strings.Cut(text, "?")
		q, err := url.ParseQuery(query)
		if err != nil || !found {
			return text, err
		}
		for _, file := range []string{"roots", "token"} {
			if q.Get(file) != "" {
				q.Set(file, c.File(q.Get(file)))
			}
		}
		return address + "?" + q.Encode(), nil
	}
	return text, nil
}
