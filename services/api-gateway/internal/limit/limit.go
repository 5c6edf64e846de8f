// Package limit bounds what one token, or one address without a token, may ask of this process, and how often an address may be
// wrong about credentials and signatures.
package limit

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/lockstep-ci/lockstep/pkg/jobs"
	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/problem"
)

const (
	// burst is for how many seconds' requests may come at once: a page asks for much in its first second.
	burst = 10
	// remembered is how many tokens, and how many addresses, are known; up to twice as many, of 300 bytes each.
	remembered = 20_000
)

// Options are in whole requests a second; 0 is no limit.
type Options struct {
	Token     int // of one token
	Anonymous int // of one address, without a token
	Failed    int // wrong credentials and signatures, of one address
	// TrustedProxies add the address of their client to X-Forwarded-For.
	TrustedProxies []netip.Prefix
}

// Limiter knows who has asked how much.
type Limiter struct {
	options Options
	tokens  *buckets[Secret]
	anybody *buckets[netip.Prefix]
	wrong   *buckets[netip.Prefix]
	works   *recent[acquaintance, struct{}]
	refused *prometheus.CounterVec
	misses  misses
	pool    *pgxpool.Pool
	log     *zap.Logger
}

// Secret is the SHA-256 of what somebody has shown.
type Secret = [32]byte

// acquaintance is a secret that was right when it came from an address.
type acquaintance struct {
	from   netip.Prefix
	secret Secret
}

// The kinds of refusal, as the metric has them.
const (
	kindToken     = "token"
	kindAnonymous = "anonymous"
	kindFailed    = "failed"
)

// New counts what it refuses in db's metrics. Run must run for wrong credentials to come into the audit log.
func New(options Options, db *jobs.DB, log *zap.Logger) *Limiter {
	l := &Limiter{
		options: options,
		tokens:  newBuckets[Secret](options.Token), anybody: newBuckets[netip.Prefix](options.Anonymous), wrong: newBuckets[netip.Prefix](options.Failed),
		works: newRecent[acquaintance, struct{}](remembered), misses: misses{of: map[string]int{}}, pool: db.Pool(), log: log,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstep_requests_limited_total",
			Help: "Requests refused with 429, by what there was too much of: of one token, of one address without a token (anonymous), " +
				"of wrong credentials and signatures from one address (failed).",
		}, []string{"kind"}),
	}
	for _, kind := range []string{kindToken, kindAnonymous, kindFailed} {
		l.refused.WithLabelValues(kind)
	}
	db.Metrics().MustRegister(l.refused)
	return l
}

// Anonymous counts a request without credentials, or refuses it.
func (l *Limiter) Anonymous(r *http.Request) error {
	if wait := l.anybody.take(network(l.Address(r))); wait > 0 {
		return l.refuse(kindAnonymous, wait, "too many requests without a token come from your address")
	}
	return nil
}

// Cookie counts a request with a cookie that was right from this address lately, and any other as one without credentials: a
// browser keeps a cookie that has had its time, and that is nobody's mistake.
func (l *Limiter) Cookie(r *http.Request, secret Secret) error {
	if _, right := l.works.get(acquaintance{network(l.Address(r)), secret}); right {
		return l.count(secret)
	}
	return l.Anonymous(r)
}

// Try counts a request with a secret that was right from this address lately, or refuses it. Any other secret is refused without
// a look from an address that was wrong too often, so that the answer says nothing about it; somebody else's mistakes behind the
// same address, or an attack, end nobody's work.
func (l *Limiter) Try(r *http.Request, secret Secret) error {
	from := network(l.Address(r))
	if _, right := l.works.get(acquaintance{from, secret}); right {
		return l.count(secret)
	}
	if wait := l.wrong.wait(from); wait > 0 {
		l.misses.add(from)
		return l.tooWrong(wait)
	}
	return nil
}

// Right says that what Try has let pass is right. It counts the request, or refuses it, unless Try has.
func (l *Limiter) Right(r *http.Request, secret Secret) error {
	if _, first := l.works.getOrAdd(acquaintance{network(l.Address(r)), secret}, struct{}{}); !first {
		return nil
	}
	return l.count(secret)
}

func (l *Limiter) count(secret Secret) error {
	if wait := l.tokens.take(secret); wait > 0 {
		return l.refuse(kindToken, wait, "there are too many requests with these credentials")
	}
	return nil
}

// Wrong says that what Try has let pass is wrong. It returns err, the problem with it, or the one that there were too many.
func (l *Limiter) Wrong(r *http.Request, secret Secret, err error) error {
	from := network(l.Address(r))
	l.works.remove(acquaintance{from, secret})
	return l.failed(from, err)
}

func (l *Limiter) failed(from netip.Prefix, err error) error {
	l.misses.add(from)
	if wait := l.wrong.take(from); wait > 0 {
		return l.tooWrong(wait)
	}
	return err
}

func (l *Limiter) tooWrong(wait time.Duration) error {
	return l.refuse(kindFailed, wait, "too many wrong credentials or signatures come from your address")
}

func (l *Limiter) refuse(kind string, wait time.Duration, detail string) error {
	l.refused.WithLabelValues(kind).Inc()
	seconds := int(math.Ceil(wait.Seconds()))
	p := problem.New(http.StatusTooManyRequests, "rate_limited", fmt.Sprintf("%s; try again in %d s", detail, seconds))
	p.RetryAfter = seconds
	return p
}

// ByAddress counts what serve is asked as requests without credentials.
func (l *Limiter) ByAddress(serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := l.Anonymous(r); err != nil {
			return err
		}
		return serve(w, r)
	}
}

// Signed counts what is not signed among what serve refuses. What is signed is never limited: GitHub delivers once, and from
// addresses from which anybody can make it deliver what is signed with another secret.
func (l *Limiter) Signed(serve func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := serve(w, r)
		if err != nil && problem.Of(err).Status == http.StatusUnauthorized {
			return l.failed(network(l.Address(r)), err)
		}
		return err
	}
}
