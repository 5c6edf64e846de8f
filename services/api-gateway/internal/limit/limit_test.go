package limit

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestTheAddressIsTheLastThatNoTrustedProxyHas(t *testing.T) {
	t.Parallel()
	l := &Limiter{options: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}}
	for name, test := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"no proxy":                         {"203.0.113.7:1234", nil, "203.0.113.7"},
		"what a stranger forwards":         {"203.0.113.7:1234", []string{"198.51.100.1"}, "203.0.113.7"},
		"a proxy that forwards nothing":    {"10.0.0.1:1234", nil, "10.0.0.1"},
		"one proxy":                        {"10.0.0.1:1234", []string{"198.51.100.1"}, "198.51.100.1"},
		"what the client says before":      {"10.0.0.1:1234", []string{"192.0.2.1, 198.51.100.1"}, "198.51.100.1"},
		"two proxies":                      {"10.0.0.1:1234", []string{"192.0.2.1, 198.51.100.1,10.2.3.4"}, "198.51.100.1"},
		"in several fields":                {"10.0.0.1:1234", []string{"192.0.2.1", "198.51.100.1", "10.2.3.4"}, "198.51.100.1"},
		"proxies alone":                    {"10.0.0.1:1234", []string{"10.2.3.4, 10.2.3.5"}, "10.2.3.4"},
		"what is no address":               {"10.0.0.1:1234", []string{"192.0.2.1, unknown, 10.2.3.4"}, "10.2.3.4"},
		"nothing":                          {"10.0.0.1:1234", []string{""}, "10.0.0.1"},
		"with a port":                      {"10.0.0.1:1234", []string{"198.51.100.1:5678"}, "198.51.100.1"},
		"IPv6":                             {"[2001:db8::1]:1234", []string{"2001:4860::7"}, "2001:4860::7"},
		"IPv6 in brackets":                 {"[2001:db8::1]:1234", []string{"[2001:4860::7]"}, "2001:4860::7"},
		"IPv6 with a port":                 {"[2001:db8::1]:1234", []string{"[2001:4860::7]:5678"}, "2001:4860::7"},
		"IPv6 with a zone":                 {"[fe80::1%eth0]:1234", nil, "fe80::1"},
		"IPv4 in IPv6":                     {"[::ffff:10.0.0.1]:1234", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"a connection that has no address": {"@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: test.remote, Header: http.Header{"X-Forwarded-For": test.forwarded}}
		if got := l.Address(r).String(); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestAHouseholdsIPv6CountsAsOneAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{"198.51.100.1": "198.51.100.1/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64"} {
		if got := network(netip.MustParseAddr(address)).String(); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}

func TestAFloodOfAddressesTakesNoMoreMemory(t *testing.T) {
	t.Parallel()
	b := newBuckets[int](1)
	b.known.most = 3
	for range burst {
		b.take(0)
	}
	for i := range 1000 {
		b.take(i + 1)
		if b.take(0) == 0 {
			t.Fatalf("who asks all the time was forgotten after %d others", i+1)
		}
	}
	if n := len(b.known.now) + len(b.known.before); n > 6 {
		t.Errorf("%d entries", n)
	}
	if b.take(1) != 0 {
		t.Error("who was forgotten is refused")
	}
	m := misses{of: map[string]int{}}
	for i := range 1000 {
		m.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	if taken := m.take(); len(taken) != reported+1 || taken[others] != 1000-reported || taken["10.0.0.1"] != 1 {
		t.Errorf("%d addresses are reported, %d times others", len(taken), taken[others])
	}
}
