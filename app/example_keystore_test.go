// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app"
	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A counter is a keystore of one's own: here another one that counts.
type counter struct {
	core.Keystore
	batches int
}

func (c *counter) Apply(ctx context.Context, b core.Batch) error {
	c.batches++
	return c.Keystore.Apply(ctx, b)
}

func Example_keystore() {
	mine := &counter{Keystore: memory.New()}
	cfg := config.Default(os.TempDir()) // or config.Load, with keystore = "mine:" in the file
	cfg.Keystore, cfg.Key = "mine:", "random:"
	var c *client.Client
	a := app.New(cfg, fx.Populate(&c),
		modules.Scheme("mine", func(context.Context, config.URI) (core.Keystore, error) { return mine, nil }))
	err := app.Run(context.Background(), a, func(ctx context.Context) error {
		return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			return tx.InitMLS(ctx, "alice", core.SuiteX25519AES128Ed25519)
		})
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(mine.batches > 0)
	// Output: true
}
