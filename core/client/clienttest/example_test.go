// SPDX-License-Identifier: Apache-2.0

package clienttest_test

import (
	"fmt"

	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A test of an application begins so. It has a *testing.T and needs no Run.
func Example() {
	clienttest.Run(func(t clienttest.TB) {
		trio := clienttest.NewConversation(t, pure.New(), memory.New, "tea", "alice", "bob", "carol")
		alice, bob, carol := trio[0], trio[1], trio[2]
		bob.Link.SetOffline(true)
		alice.Say(t, "tea", "Tea is ready.")
		carol.Say(t, "tea", "Coming!")
		bob.Link.SetOffline(false)
		fmt.Println(bob.Hear(t, "tea"), alice.Hear(t, "tea"))
	})
	// Output: [Tea is ready. Coming!] [Coming!]
}
