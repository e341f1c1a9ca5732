// SPDX-License-Identifier: Apache-2.0

// Package softhsmtest brings up throw-away PKCS#11 tokens for tests, as an ordinary user
// and in temporary folders: [New] is SoftHSM, [NSS] is NSS softokn, [P11Kit] is SoftHSM in
// a process of its own behind p11-kit's remoting, [Spy] writes down what reaches a module.
// All are gone when the test is over. The tests of this package are those of package hsm
// on real tokens.
//
// What a test wants is mostly one line:
//
//	uri := softhsmtest.New(t).URI() // pkcs11:token=...?module-path=...&pin-source=file:...
//
// # Many tokens in one process
//
// A module is one instance in a process, and which token it has is said by an environment
// variable, which is the process's as well. So each [Token] has a copy of the module's
// file, which is an instance of its own, and in the copy the name of the variable is
// another one of the same length. The variables are set when the first token is made, and
// children inherit them: parallel tests do not meet. Of NSS a process has one at a time.
//
// A child of a test uses a token of its parent by the URI. It must use it from another
// process only as far as the token allows that: SoftHSM and p11-kit do, NSS does not.
//
// # What must be installed
//
// "make setup" installs it; without make, on Debian and Ubuntu:
//
//	apt-get install softhsm2 opensc libnss3 libnss3-tools p11-kit p11-kit-modules
//
// For [TPM] and [OpenCryptoki], which only "make soak" wants, it is "make setup-soak" or
//
//	apt-get install swtpm tpm2-tools tpm2-abrmd libtpm2-pkcs11-1 libtpm2-pkcs11-tools libtss2-tcti-tabrmd0 dbus-daemon opencryptoki
//
// and users have to be allowed to make namespaces, as they mostly are: opencryptoki wants
// to be root, and is root there over files of its own only.
//
// Modules are looked for where the packages put them. What is missing skips the test, or
// fails it when CONCLAVE_SHARED is set.
//
// # A real token
//
// What is safe on a token with other keys runs on any, with one URI and one command:
//
//	make token HSM='pkcs11:token=NAME?module-path=/usr/lib/vendor.so&pin-source=file:/run/pin'
//
// It makes keys, has them sign and derive, deletes them, and prints what the token can do.
// A run tries the PIN once: if it is wrong, do not run this again before it is right. "conclave
// hsm probe URI" comes first, which remembers a refused PIN for good. Wrong PINs, full tokens and the like are not tried.
//
// Nothing here is for production: SoftHSM keeps its keys in files and in the memory of the
// process that uses it.
package softhsmtest
