// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
)

func (p *program) version() *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Annotations: only("json"),
		Short:       "Say which build this is and which cipher suites it has",
		Example:     "  conclave version --json",
		Args:        cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type suite struct {
				ID   uint16 `json:"id"`
				Name string `json:"name"`
			}
			var v struct {
				Version  string  `json:"version"`
				Revision string  `json:"revision,omitempty"`
				Go       string  `json:"go"`
				Platform string  `json:"platform"`
				HSM      bool    `json:"hsm"`
				Suites   []suite `json:"suites"`
			}
			v.Version, v.Go, v.Platform = "(devel)", runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
			if info, ok := debug.ReadBuildInfo(); ok {
				if info.Main.Version != "" {
					v.Version = info.Main.Version
				}
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			software := pure.New()
			for _, id := range software.Suites() {
				s, err := software.Suite(id)
				if err != nil {
					return err
				}
				v.Suites = append(v.Suites, suite{uint16(id), s.Parameters().Name})
			}
			words := fmt.Sprintf("conclave %s, %s on %s\n", strings.TrimSpace(v.Version+" "+v.Revision), v.Go, v.Platform)
			if err := hsm.Available(); err != nil {
				words += "  PKCS#11: " + err.Error() + "\n"
			} else {
				v.HSM = true
				words += "  PKCS#11 tokens can be used\n"
			}
			for _, s := range v.Suites {
				words += fmt.Sprintf("  suite %d  %s\n", s.ID, s.Name)
			}
			return p.result(v, "%s", words)
		},
	}
}
