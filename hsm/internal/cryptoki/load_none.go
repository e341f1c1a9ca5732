// SPDX-License-Identifier: Apache-2.0

//go:build !cgo || nohsm

package cryptoki

// Built says whether modules can be loaded.
const Built = false

// Load would open a module.
func Load(string) (Module, error) {
	return nil, ErrNotBuilt
}
