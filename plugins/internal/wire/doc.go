// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the host and a plugin: generated code, and its
// translation from and to the types of core. Start with plugin.proto, which is the whole
// of it; [ToError] and [FromError] are the one place where sentinels become codes.
//
// What comes from the other side is checked here for its form (sizes of versions and ids,
// numbers that fit); what it means is checked by packages host and sdk. No function keeps
// or copies the bytes it translates.
package wire

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
