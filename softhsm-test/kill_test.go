// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import "context"

func (p part) live(ctx context.Context) error { return nil }
func (p part) holdKeys(ctx context.Context) error { return nil }
