// SPDX-License-Identifier: Apache-2.0

//go:build !cgo || nohsm

package hsm

import "context"

func openCrypto11(context.Context, Config, URI) (caEngine, error) { return nil, ErrNotBuilt }
