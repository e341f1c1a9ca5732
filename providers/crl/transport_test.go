// SPDX-License-Identifier: Apache-2.0

package crl

import (
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func TestAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"93.184.216.34", true}, {"2606:2800:220:1::1", true}, {"8.8.8.8", true}, {"2001:4860:4860::8888", true},
		{"127.0.0.1", false}, {"127.1.2.3", false}, {"::1", false}, {"0.0.0.0", false}, {"0.1.2.3", false}, {"::", false},
		{"10.0.0.1", false}, {"172.16.0.1", false}, {"192.168.1.1", false}, {"fd00::1", false}, {"fec0::1", false},
		{"169.254.169.254", false}, {"fe80::1", false}, {"100.64.0.1", false}, {"192.0.0.1", false}, {"198.18.0.1", false},
		{"224.0.0.1", false}, {"255.255.255.255", false}, {"240.0.0.1", false}, {"ff02::1", false},
		{"::7f00:1", false}, {"64:ff9b::7f00:1", false}, {"64:ff9b:1::1", false}, {"2002:7f00:1::", false}, {"2001::1", false},
		{"::ffff:8.8.8.8", true}, {"::ffff:100.64.0.1", false}, {"::ffff:127.0.0.1", false},
	} {
		if got := asked(netip.MustParseAddr(c.addr), nil); got != c.want {
			t.Errorf("%s: %v", c.addr, got)
		}
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}
	for addr, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "127.0.0.1": true, "127.0.0.2": false, "8.8.8.8": true} {
		if got := asked(netip.MustParseAddr(addr), networks); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for given, want := range map[time.Duration]time.Duration{0: DefaultTimeout, time.Second: time.Second, time.Hour: maxTimeout} {
		if got := New(Config{HTTP: &http.Client{Timeout: given}}).http.Timeout; got != want {
			t.Errorf("%v: %v", given, got)
		}
	}
}
