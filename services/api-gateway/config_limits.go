package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/limit"
)

const maxRate = 1_000_000 // requests a second; who wants no limit says 0

// Limits are the settings of package limit.
type Limits struct {
	RateLimit          int      `envconfig:"RATE_LIMIT" default:"100" desc:"requests a second of one token; ten seconds' worth may come at once; 0: no limit"`
	RateLimitAnonymous int      `envconfig:"RATE_LIMIT_ANONYMOUS" default:"20" desc:"likewise of one address (IPv6: its /64) without a token"`
	RateLimitFailed    int      `envconfig:"RATE_LIMIT_FAILED" default:"1" desc:"likewise wrong credentials and signatures of one address"`
	TrustedProxies     []string `envconfig:"TRUSTED_PROXIES" desc:"addresses or networks, with commas, of the proxies in front, whose X-Forwarded-For says where a request comes from"`
}

// Validate names the first setting that cannot be.
func (l Limits) Validate() error {
	for name, value := range map[string]int{"RATE_LIMIT": l.RateLimit, "RATE_LIMIT_ANONYMOUS": l.RateLimitAnonymous, "RATE_LIMIT_FAILED": l.RateLimitFailed} {
		if value < 0 || value > maxRate {
			return fmt.Errorf("%s: give requests a second, 0 to %d", name, maxRate)
		}
	}
	_, err := l.proxies()
	return err
}

func (l Limits) proxies() (networks []netip.Prefix, err error) {
	for _, text := range l.TrustedProxies {
		text = strings.TrimSpace(text)
		if addr, err := netip.ParseAddr(text); err == nil {
			text = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, errors.New("TRUSTED_PROXIES: give addresses or networks as 10.0.0.0/8, with commas")
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

func (l Limits) limits() limit.Options {
	proxies, _ := l.proxies() // Validate has seen them
	return limit.Options{Token: l.RateLimit, Anonymous: l.RateLimitAnonymous, Failed: l.RateLimitFailed, TrustedProxies: proxies}
}
