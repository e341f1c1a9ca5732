// SPDX-License-Identifier: Apache-2.0

//go:build unix

package softhsmtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	tpmModule = origin{"libtpm2_pkcs11.so.1", "libtpm2-pkcs11-1", "libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-tools", "setup-soak"}
	tpmTools  = origin{"swtpm", "swtpm", "swtpm tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon", "setup-soak"}
)

// TPM makes a token of tpm2-pkcs11 on a TPM in software, with a bus and a resource manager
// of its own. It is slow, has 1024 sessions and locks after three wrong PINs: for "make
// soak". The module reads variables that are the process's, so a process has one such
// token, and no parallel test besides.
func TPM(t testing.TB) *Token {
	t.Helper()
	module := tpmModule.find(t)
	swtpm, bus, manager := tpmTools.tool(t, "swtpm"), tpmTools.tool(t, "dbus-daemon"), tpmTools.tool(t, "tpm2-abrmd")
	ptool, random := tpmModule.tool(t, "tpm2_ptool"), tpmModule.tool(t, "tpm2_getrandom")
	k := newToken(t, "tpm")
	k.SOPIN = "so" + k.PIN
	k.ModulePath = module
	must(t, os.Mkdir(k.store(), 0o700))
	must(t, os.Mkdir(k.site.path("state"), 0o700))
	port := twoPorts(t)
	for name, value := range map[string]string{
		"TPM2_PKCS11_STORE": k.store(), "TPM2_PKCS11_BACKEND": "esysdb", "TSS2_LOG": "all+none",
		"TPM2_PKCS11_TCTI": "tabrmd:bus_type=session", "TPM2TOOLS_TCTI": "tabrmd:bus_type=session",
		"DBUS_SESSION_BUS_ADDRESS": "unix:path=" + k.site.path("bus"),
	} {
		must(t, os.Setenv(name, value)) // for good: a module may read it until the process ends
	}
	start(t, "the bus", bus, "--session", "--nofork", "--address=unix:path="+k.site.path("bus"))
	start(t, "swtpm", swtpm, "socket", "--tpm2", "--tpmstate", "dir="+k.site.path("state"), "--flags", "not-need-init,startup-clear",
		"--server", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", port+1))
	waitFor(t, "the bus", func() bool { _, err := os.Stat(k.site.path("bus")); return err == nil })
	waitFor(t, "swtpm", func() bool { // it serves one connection, which is the manager's
		text, _ := os.ReadFile("/proc/net/tcp")
		return strings.Contains(string(text), fmt.Sprintf("0100007F:%04X 00000000:0000 0A", port))
	})
	args := []string{"--session", "--flush-all", "--tcti", fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port)}
	if os.Getuid() == 0 {
		args = append(args, "--allow-root")
	}
	k.restore = func(t testing.TB) (remove func()) {
		t.Helper()
		remove = start(t, "the resource manager", manager, args...)
		waitFor(t, "the resource manager", func() bool { return exec.Command(random, "8").Run() == nil })
		return remove
	}
	k.remove = k.restore(t)
	for _, args := range [][]string{{"init"}, {"addtoken", "--pid", "1", "--label", k.Label, "--sopin", k.SOPIN, "--userpin", k.PIN}} {
		if out, err := exec.Command(ptool, append(args, "--path", k.store())...).CombinedOutput(); err != nil {
			t.Fatalf("tpm2_ptool %s: %v\n%s", args[0], err, out)
		}
	}
	return k
}

// start runs a program until it is stopped, the test is over, or this process ends in
// whatever way.
func start(t testing.TB, what, program string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeper, "keeper", program}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	stop = sync.OnceFunc(func() {
		_ = alive.Close()
		_ = cmd.Wait() // killed, by itself
	})
	t.Cleanup(stop)
	return stop
}

func waitFor(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not start", what)
		}
	}
}

// twoPorts gives the first of two free ports, for data and control.
func twoPorts(t testing.TB) int {
	t.Helper()
	for range 100 {
		a, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		port := a.Addr().(*net.TCPAddr).Port
		b, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		must(t, a.Close())
		if err == nil {
			must(t, b.Close())
			return port
		}
	}
	t.Fatal("there are no two free ports")
	return 0
}
