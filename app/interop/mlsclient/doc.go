// SPDX-License-Identifier: Apache-2.0

// Package mlsclient is the wire contract of the MLS interoperability harness, as
// gRPC code: the client and the server side of the service mls_client.MLSClient.
// Start with [NewMLSClientClient] to drive a stack; package interop is the server.
//
// All of it but this file is generated from mls_client.proto. It promises the
// names and field numbers of that file and nothing about MLS.
package mlsclient

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
