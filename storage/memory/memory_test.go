// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestStore(t *testing.T) {
	coretest.TestKeystore(t, func(*testing.T) core.Keystore { return memory.New() })
}

func TestFaults(t *testing.T) {
	coretest.TestFaultyKeystore(t, func(*testing.T) core.Keystore { return memory.New() })
}

func Example() {
	ctx := context.Background()
	store := memory.New()
	defer store.Close()

	err := store.Apply(ctx, core.Batch{Puts: []core.Put{
		{Table: 1, Key: []byte("b"), Value: []byte("two"), Version: core.NewVersion()},
		{Table: 1, Key: []byte("a"), Value: []byte("one"), Version: core.NewVersion()},
	}})
	if err != nil {
		panic(err)
	}
	answers, err := store.Read(ctx, []core.Query{{Table: 1}})
	if err != nil {
		panic(err)
	}
	for _, r := range answers[0] {
		fmt.Printf("%s=%s\n", r.Key, r.Value)
	}
	// Output:
	// a=one
	// b=two
}
