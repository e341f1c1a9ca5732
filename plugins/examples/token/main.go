// SPDX-License-Identifier: Apache-2.0

// Command token is a plugin that has the keys of a PKCS#11 token: a crypto provider and, if
// one is named, a key that wraps those of the keystore. The vendor's module runs in this
// process and not in that of the client: when it crashes, the client sees
// core.ErrUnavailable, nothing has happened, and this plugin is started again.
//
//	go build -o plugins/conclave-plugin-token ./plugins/examples/token   # with cgo
//	conclave plugin test plugins/conclave-plugin-token --env URI=... --env LATCH=$PWD/latch
//
// It is configured by its environment:
//
//	URI    the token by RFC 7512, with its module and the source of the PIN
//	KEK    the wrapping key on it, such as pkcs11:object=kek; "": the plugin offers none
//	LATCH  the folder where it is remembered that the token has refused a PIN
//
// and what the module reads of it has to be there as well, as nothing else is:
//
//	crypto = "plugin:token"
//	key = "plugin:token"
//
//	[plugin.token]
//	sha256 = "..." # what conclave plugin verify prints
//	env = { URI = "pkcs11:token=corp?module-path=/opt/vendor/libp11.so&pin-source=file:/etc/corp/pin", KEK = "pkcs11:object=kek", LATCH = "latch" }
//
// The folder of LATCH must outlive the process: a plugin that dies is started again, and a
// PIN that is wrong would be tried until the token locks. Who is killed inside of a login
// leaves the PIN latched too; conclave hsm unlatch lets it be tried again, if LATCH is, as
// above, the folder that the client has for its own tokens.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/plugins/sdk"
)

func main() {
	// Lines of JSON on standard error are log records of the host, with their level.
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if err := serve(); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func serve() (err error) {
	latch := os.Getenv("LATCH")
	if latch == "" {
		return fmt.Errorf("LATCH names no folder: %w", core.ErrInvalid)
	}
	// The host waits for ten seconds unless it is told otherwise.
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	token, err := hsm.Open(ctx, hsm.Config{
		URI:    os.Getenv("URI"),
		Latch:  latch,
		Logger: slog.Default(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	p := sdk.Plugin{CryptoProvider: token.Provider()}
	if kek := os.Getenv("KEK"); kek != "" {
		if p.KeyWrapper, err = token.Wrapper(ctx, kek); err != nil {
			return err
		}
	}
	sdk.Serve(p)
	return nil
}
