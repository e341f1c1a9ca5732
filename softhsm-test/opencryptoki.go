// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core/coretest"
)

var (
	ockModule  = origin{"libopencryptoki.so", "opencryptoki", "opencryptoki", "setup-soak"}
	namespaces = origin{"", "", "util-linux", "setup-soak"}
)

// isolated is a file that is there in the namespaces of [Isolated] and nowhere else.
const isolated = "/run/softhsmtest"

// alone are the namespaces in which one is root over nothing but what one has made. They
// end with the first process in them, and that with its parent.
var alone = []string{"--user", "--map-root-user", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"}

// isolate hides what opencryptoki writes to, of which the paths are fixed, and has the
// group that it wants, which is root's. Then it is the program that was asked for.
const isolate = `
set -e
for hidden in /run /dev/shm /var/lib/opencryptoki; do mount -t tmpfs tmpfs $hidden; done
mkdir -p /run/lock /run/etc /var/lib/opencryptoki/swtok/TOK_OBJ
printf 'version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n' >/run/etc/opencryptoki.conf
mount --bind /run/etc /etc/opencryptoki
printf 'root:x:0:\npkcs11:x:0:root\n' >/run/group
mount --bind /run/group /etc/group
echo >` + isolated + `
exec "$@"
`

// Isolated is a command that runs a program in Linux namespaces of its own, in which it may
// have one token of [OpenCryptoki]. Its children are there as well, and end with it. No
// privilege is needed where users may make namespaces.
func Isolated(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	ockModule.find(t)
	unshare := namespaces.tool(t, "unshare")
	if out, err := exec.Command(unshare, append(alone, "true")...).CombinedOutput(); err != nil {
		coretest.Lacking(t, fmt.Sprintf("needs namespaces of users, which are not allowed here (%s): as root, as far as the names are known, sysctl "+
			"user.max_user_namespaces=1000 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0", bytes.TrimSpace(out)))
	}
	return exec.Command(unshare, append(append(alone, "/bin/sh", "-c", isolate, "isolate", program), args...)...)
}

// OpenCryptoki makes the software token of opencryptoki, with a daemon of its own, for a
// process of [Isolated]. On Debian 12 it has no elliptic curves; its PIN has at most eight
// characters and is locked after three wrong ones. For "make soak".
func OpenCryptoki(t testing.TB) *Token {
	t.Helper()
	if !isFile(isolated) {
		t.Fatal("a token of opencryptoki is for a process of softhsmtest.Isolated")
	}
	k := newToken(t, "opencryptoki")
	k.ModulePath = ockModule.find(t)
	daemon, conf := ockModule.tool(t, "pkcsslotd"), ockModule.tool(t, "pkcsconf")
	k.SOPIN, k.PIN = rand.Text()[:8], rand.Text()[:8]
	must(t, os.WriteFile(k.PINFile, []byte(k.PIN+"\n"), 0o600))
	if out, err := exec.Command(daemon).CombinedOutput(); err != nil { // it goes to the background
		t.Fatalf("pkcsslotd: %v\n%s", err, out)
	}
	// The first PINs are the makers'; those that somebody sets for another have to be changed.
	const factory, first = "87654321", "11223344"
	for _, args := range [][]string{
		{"-I", "-S", factory}, {"-P", "-S", factory, "-n", k.SOPIN}, {"-u", "-S", k.SOPIN, "-n", first}, {"-p", "-U", first, "-n", k.PIN}, {"-t"},
	} {
		cmd := exec.Command(conf, append(args, "-c", "0")...)
		cmd.Stdin = strings.NewReader(k.Label + "\n")
		out, err := cmd.CombinedOutput()
		// It ends well when it has failed, too.
		if err != nil || args[0] == "-t" && (!bytes.Contains(out, []byte(k.Label)) || !bytes.Contains(out, []byte("|USER_PIN_INITIALIZED|")) || bytes.Contains(out, []byte("TO_BE_CHANGED"))) {
			t.Fatalf("pkcsconf %s: %v\n%s", args[0], err, out)
		}
	}
	return k
}
