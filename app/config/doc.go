// SPDX-License-Identifier: Apache-2.0

// Package config reads which parts a program is made of. A configuration is a
// TOML file of URIs, one for each part; the scheme of a URI chooses who
// implements the part and the rest says where it is:
//
//	keystore = "sqlite:store.db"   # or "memory:", "postgres://..."
//	tenant   = "conclave"          # whose records in it, where several clients share one
//	key      = "file:store.key"    # what seals the keystore; or "passphrase:", "pkcs11:..."
//	crypto   = "pure:"             # where signature keys are made, or "pkcs11:...", a token
//	audit    = "file:audit.log"    # each use of a key; or "log:", the program's log
//	issuer   = "basic:"            # who vouches for the client; or "acme:https://...", "manual:", "localca:ca.pem?key=ca.key"
//	crl_networks = "10.0.0.0/8"    # where revocation lists may be besides public addresses
//	delivery = "unix:///run/conclave.sock"
//	suite    = 1                   # RFC 9420 section 17.1
//
// Keystore, key, crypto and issuer can also be in a program of somebody else's:
// "plugin:NAME", or "plugin:NAME/INSTANCE" if it has several. NAME has a table:
//
//	plugin_folder = "plugins"      # where it is, as conclave-plugin-NAME
//
//	[plugin.store]
//	sha256 = "64 hexadecimal digits, of the executable"
//	path   = "/opt/acme/store"     # if it is not in the plugin folder
//	args   = ["--fast"]
//	env    = { FILE = "store.d" }  # its whole environment; it runs in the folder of the file
//
// Start with [Load], or with [Default] and no file. A relative path begins at
// the folder of the file, so that the folder can be moved as a whole. The
// folder examples has one file for each configuration that is shipped.
//
// The package promises that a file with an unknown key, or a URI that cannot be
// one, is [core.ErrInvalid]; whether a scheme exists is for app/modules to say.
// Do not put secrets into a configuration: it names where they are.
package config
