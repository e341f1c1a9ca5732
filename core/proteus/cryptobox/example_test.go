// SPDX-License-Identifier: Apache-2.0

package cryptobox_test

import (
	"errors"
	"fmt"
	"testing/fstest"

	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// A folder with an identity, a prekey, and a session that was cut short.
func ExampleFolder() {
	identity, _ := proteus.GenerateIdentity(nil)
	preKey, _ := proteus.GeneratePreKey(nil, 3)
	box, err := cryptobox.Folder(fstest.MapFS{ // or os.DirFS
		"identities/local_identity": {Data: identity.Marshal()},
		"prekeys/3":                 {Data: preKey.Marshal()},
		"sessions/alice@phone":      {Data: []byte{0xa6}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ours, err := box.Identity()
	fmt.Println(ours.Public() == identity.Public(), err)
	for _, k := range box.PreKeys {
		_, err := k.Read()
		fmt.Println("prekey", k.ID, err)
	}
	for _, s := range box.Sessions {
		_, err := s.Read(ours.Public())
		fmt.Println(s.Name, errors.Is(err, proteus.ErrMalformed))
	}
	// Output:
	// true <nil>
	// prekey 3 <nil>
	// alice@phone true
}
