// SPDX-License-Identifier: Apache-2.0

package cryptoki

import "time"

var alone = make(chan struct{}, 1)

// Alone calls f while no other call of it runs. All modules are initialised in it, as some
// read their configuration with functions of the C library that have one state for the
// process: SoftHSM uses strtok, and two at once read of one another's file. Who hangs
// keeps others for ten seconds; then they take their chance.
func Alone(f func() error) error {
	select {
	case alone <- struct{}{}:
		defer func() { <-alone }()
	case <-time.After(10 * time.Second):
	}
	return f()
}
