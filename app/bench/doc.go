// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the operations of a client cost: here, with Core Crypto where
// it is at hand, and what the primitives cost that RFC 9420 makes unavoidable. Start with
// [Run], which the program's command "bench" calls.
package bench
