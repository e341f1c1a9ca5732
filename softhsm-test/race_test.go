// SPDX-License-Identifier: Apache-2.0

//go:build race && unix && cgo && !nohsm

package softhsmtest_test

const underRace = true
