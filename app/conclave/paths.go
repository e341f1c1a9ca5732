// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
)

// fileSchemes are those of URIs that name a file.
var fileSchemes = []string{"file", "sqlite", "unix"}

// anyURI refuses what is none, by the name of its flag.
func anyURI(flag, text string) error {
	_, err := config.Config{}.URI(text)
	if err != nil && text != "" {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return nil
}

// fromHere makes the paths in what a person gave as flags absolute: in the
// configuration they would begin at its folder.
func fromHere(flags config.Config) (config.Config, error) {
	for _, flag := range []struct{ name, text string }{
		{"keystore", flags.Keystore}, {"key", flags.Key}, {"crypto", flags.Crypto}, {"delivery", flags.Delivery}, {"issuer", flags.Issuer},
	} {
		if err := anyURI(flag.name, flag.text); err != nil {
			return config.Config{}, err
		}
	}
	for _, uri := range []*string{&flags.Keystore, &flags.Key, &flags.Delivery, &flags.Listen} {
		scheme, _, _ := strings.Cut(*uri, ":")
		if !slices.Contains(fileSchemes, scheme) {
			continue // names no file
		}
		u, err := config.Config{}.URI(*uri)
		if err != nil {
			return config.Config{}, err
		}
		path, err := u.File()
		if err != nil {
			return config.Config{}, err
		}
		if path, err = filepath.Abs(path); err != nil {
			return config.Config{}, err
		}
		*uri = config.FileURI(scheme, path)
	}
	if flags.Issuer != "" {
		folder, err := filepath.Abs(".")
		if err != nil {
			return config.Config{}, err
		}
		if flags.Issuer, err = modules.IssuerFrom(folder, flags.Issuer); err != nil {
			return config.Config{}, fmt.Errorf("--issuer: %w", err)
		}
	}
	for _, path := range []*string{&flags.Certificate, &flags.PrivateKey} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return config.Config{}, err
		}
	}
	return flags, nil
}
