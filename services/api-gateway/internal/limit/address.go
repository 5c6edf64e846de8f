package limit

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Address is where a request comes from: the other end of the connection, and behind trusted proxies the last address in
// X-Forwarded-For that is not one of theirs. What stands before that is said by the client.
func (l *Limiter) Address(r *http.Request) netip.Addr {
	addr := addressOf(r.RemoteAddr)
	if !l.trusts(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		before := addressOf(strings.TrimSpace(hop))
		if !before.IsValid() { // the proxy that wrote this is the last that we know
			break
		}
		addr = before
		if !l.trusts(addr) {
			break
		}
	}
	return addr
}

func (l *Limiter) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(l.options.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// addressOf reads an address, with or without a port; it is not valid when there is none.
func addressOf(text string) netip.Addr {
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		with, _ := netip.ParseAddrPort(text)
		addr = with.Addr()
	}
	return addr.Unmap().WithZone("")
}

// network is what counts as one: an IPv4 address, or the 64 bits of IPv6 that a household has.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // the zero one for no address
	return prefix
}
