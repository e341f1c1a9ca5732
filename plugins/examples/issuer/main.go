// SPDX-License-Identifier: Apache-2.0

// Command issuer is a plugin with a small certification authority: whoever shows that a
// signature key is his gets an X.509 credential for it, if his client id is one of ours. It
// is an example to copy, where a CA of one's own, or a word with one, belongs in.
//
//	go build -o plugins/conclave-plugin-issuer ./plugins/examples/issuer
//	conclave plugin test plugins/conclave-plugin-issuer
//
// It is configured by its environment:
//
//	FOLDER    of ca.pem and ca.key, which are made where ca.pem is not there; "": the working directory
//	SUFFIX    of the client ids that are ours, such as @corp.example; "": all are
//	LIFETIME  of a certificate, such as 720h; "": 90 days
//
// Others trust ca.pem; ca.key stays where it is. Who may have which of our ids is not asked:
// let nobody use this plugin who may not have them all. Handles and display names are not
// certified, as nobody here knows whose they are.
//
//	issuer = "plugin:issuer"
//
//	[plugin.issuer]
//	sha256 = "..." # what conclave plugin verify prints
//	env = { FOLDER = "ca", SUFFIX = "@corp.example" }
//
// An enrolment takes several calls, and between two of them this process may have ended and
// another have begun. So all that is known of one is in the Step.State, which the client
// keeps, authenticated by a key that is the same in every life: here it is made of the CA's.
// An issuer that has a random one, or a map in memory, has its clients begin again.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/sdk"
	"github.com/conclave-mls/conclave/providers/localca"
)

func main() {
	// Lines of JSON on standard error are log records of the host, with their level.
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	issuer, err := open(cmp.Or(os.Getenv("FOLDER"), "."), os.Getenv("SUFFIX"), os.Getenv("LIFETIME"))
	if err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
	sdk.Serve(sdk.Plugin{Issuer: issuer})
}

func open(folder, suffix, lifetime string) (core.CredentialIssuer, error) {
	var cfg localca.Config
	var err error
	if lifetime != "" {
		if cfg.Lifetime, err = time.ParseDuration(lifetime); err != nil || cfg.Lifetime <= 0 {
			return nil, fmt.Errorf("LIFETIME %q is no time such as 720h: %w", lifetime, core.ErrInvalid)
		}
	}
	if cfg.Certificates, cfg.Key, cfg.StateKey, err = openCA(folder); err != nil {
		return nil, err
	}
	ca, err := localca.New(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	return ours{ca, suffix}, nil
}

// ours issues to clients with the suffix only, and says nothing else about them.
type ours struct {
	core.CredentialIssuer
	suffix string
}

// Begin implements core.CredentialIssuer.
func (o ours) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	req.Handle, req.Display = "", ""
	step, err := o.CredentialIssuer.Begin(ctx, req)
	if err == nil && !strings.HasSuffix(string(req.ClientID), o.suffix) {
		reason := fmt.Sprintf("the client id does not end in %s", o.suffix)
		return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: reason, Final: true}}}, nil
	}
	return step, err
}
