// SPDX-License-Identifier: Apache-2.0

//go:build unix

package host_test

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

func Example() {
	path, sum := self() // the plugin is this program again, see TestMain
	p, err := host.Launch(context.Background(), host.Config{Name: "store", Path: path, SHA256: sum, Env: []string{"ROLE=memory"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = p.Close() }()
	store, err := p.Keystore("")
	if err != nil {
		fmt.Println(err)
		return
	}
	put := core.Put{Table: 1, Key: []byte("key"), Value: []byte("value"), Version: core.NewVersion()}
	fmt.Println(store.Apply(context.Background(), core.Batch{Puts: []core.Put{put}}))
	answers, err := store.Read(context.Background(), []core.Query{{Table: 1}})
	fmt.Printf("%s %v\n", answers[0][0].Value, err)
	// Output:
	// <nil>
	// value <nil>
}
