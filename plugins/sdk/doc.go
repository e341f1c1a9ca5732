// SPDX-License-Identifier: Apache-2.0

// Package sdk makes a program a plugin of Conclave: the program builds its parts and gives
// them to [Serve], which is all of its main function.
//
// The parts keep the rules of package core, and what core/coretest says of them. A plugin
// may be killed at any moment, and is then started again by its host: what a keystore has
// applied, and what a provider has made, has to be there again, and an issuer has to know
// the states that it gave in its life before. A private key that a provider has opened
// is used for up to a minute before it is opened again.
// Its environment has only what the host's configuration says. What it writes to standard
// error becomes log records of the host, line by line; a line of [log/slog]'s JSON keeps
// its level and text. Standard input belongs to Serve: it ends when the host does, and with
// it the program and what that has started in its process group.
package sdk
