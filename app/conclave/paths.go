// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/app/config"
)

// fileSchemes are those of URIs that name a file.
var fileSchemes = []string{"file", "sqlite", "unix"}

// fromHere makes the paths in what a person gave as flags absolute: in the
// configuration they would begin at its folder.
func fromHere(flags config.Config) (config.Config, error) {
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
