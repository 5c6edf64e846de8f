package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// network is what stands between the services and PostgreSQL: a proxy for each place of a process, whose address stays.
type network struct {
	toxiproxy *toxiproxy.ApiServer

	mu      sync.Mutex
	proxies []*proxy
}

type proxy struct {
	mu      sync.Mutex
	service string
	inner   *toxiproxy.Proxy
	network *network
}

func newNetwork() *network {
	return &network{toxiproxy: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())}
}

func (n *network) add(service, upstream string) (*proxy, error) {
	p := &proxy{service: service, network: n, inner: toxiproxy.NewProxy(n.toxiproxy, service, "127.0.0.1:0", upstream)}
	if err := p.inner.Start(); err != nil {
		return nil, fmt.Errorf("start the proxy of %s: %w", service, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proxies = append(n.proxies, p)
	return p, nil
}

// forward sends everybody to a new upstream; connections to the old one are closed.
func (n *network) forward(upstream string) error {
	for _, p := range n.proxies {
		if err := p.restart(upstream); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) close() {
	for _, p := range n.proxies {
		p.inner.Stop()
	}
}

func (p *proxy) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inner.Listen
}

// restart closes all connections and takes new ones, without a toxic. Empty upstream: the same one. Other programs may hold
// the port for a moment.
func (p *proxy) restart(upstream string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.inner
	old.Stop()
	if upstream == "" {
		upstream = old.Upstream
	}
	p.inner = toxiproxy.NewProxy(p.network.toxiproxy, p.service, old.Listen, upstream)
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if err = p.inner.Start(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("start the proxy of %s anew: %w", p.service, err)
}

// close refuses connections and closes those there are.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inner.Stop()
}

// poison adds a toxic of toxiproxy to one direction.
func (p *proxy) poison(kind, stream string, attributes map[string]int) error {
	text, err := json.Marshal(map[string]any{"type": kind, "stream": stream, "attributes": attributes})
	if err != nil {
		return err
	}
	return p.patiently(func(inner *toxiproxy.Proxy) error {
		if _, err := inner.Toxics.AddToxicJson(strings.NewReader(string(text))); err != nil {
			return fmt.Errorf("poison the proxy of %s: %w", p.service, err)
		}
		return nil
	})
}

// cure removes all toxics. What a latency held back is delivered; whatever a timeout held closes.
func (p *proxy) cure() error {
	return p.patiently(func(inner *toxiproxy.Proxy) error {
		inner.Toxics.ResetToxics(context.Background())
		return nil
	})
}

// patiently gives toxiproxy some seconds: it waits for connections whose other end reads nothing, like that of a process
// that stands still. Those are closed then.
func (p *proxy) patiently(do func(*toxiproxy.Proxy) error) error {
	p.mu.Lock()
	inner := p.inner
	p.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- do(inner) }()
	select {
	case err := <-done:
		return err
	case <-time.After(3 * time.Second):
		return p.restart("")
	}
}
