// SPDX-License-Identifier: Apache-2.0

package crl

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// maxHeader is the longest header of a reply, in bytes.
const maxHeader = 1 << 16

// Transport connects to public addresses and to those in the networks that are given, which
// are asked for when a name is resolved already: ErrNetwork, for others. It uses no proxy, as
// that would resolve them. Its TLS configuration may be set.
func Transport(networks ...netip.Prefix) *http.Transport {
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %q", ErrNetwork, address)
			}
			if !asked(to.Addr(), networks) {
				return fmt.Errorf("%w: %v", ErrNetwork, to.Addr())
			}
			return nil
		},
	}
	return &http.Transport{
		DialContext: dialer.DialContext, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 30 * time.Second, MaxConnsPerHost: 2,
	}
}

// special are addresses that package netip counts as global and that are not: of networks
// without a name of their own, or that stand for addresses of IPv4.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),  // RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),   // RFC 6890
	netip.MustParsePrefix("198.18.0.0/15"),  // RFC 2544
	netip.MustParsePrefix("240.0.0.0/4"),    // RFC 1112
	netip.MustParsePrefix("::/96"),          // RFC 4291
	netip.MustParsePrefix("64:ff9b::/96"),   // RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"), // RFC 8215
	netip.MustParsePrefix("2001::/32"),      // RFC 4380
	netip.MustParsePrefix("2002::/16"),      // RFC 3056
	netip.MustParsePrefix("fec0::/10"),      // RFC 3879
}

// asked says whether an address is public, or in one of the networks.
func asked(addr netip.Addr, networks []netip.Prefix) bool {
	addr = addr.Unmap()
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !within(addr, special) || within(addr, networks)
}

func within(addr netip.Addr, networks []netip.Prefix) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}
