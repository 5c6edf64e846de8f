package jobs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// SchemaVersion is the oldest schema that this build works on: the number of a migration. A newer one is welcome,
// because migrations expand first and contract a release later.
const SchemaVersion = 5

//go:embed queries/*.sql
var queryFiles embed.FS

// query returns the text of queries/<name>.sql. The files are part of the binary: a missing one is a programmer's
// mistake, found by the first start.
func query(name string) string {
	text, err := queryFiles.ReadFile("queries/" + name + ".sql")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Options are what Open needs beside the URL. The zero Options will do.
type Options struct {
	App       string      // application_name of each connection: the binary's name
	ListenURL string      // for the LISTEN connection, which a transaction-mode pooler would deafen; empty: the same URL
	Log       *zap.Logger // nil: silent
}

// DB is one process's access to the queue: a pool, connections of its own for what must never wait for it, and one that
// listens. A process needs one, whatever it does; all methods may be called from several goroutines at once.
type DB struct {
	pool     *pgxpool.Pool
	signs    *pgxpool.Pool // for beats and claims, which must never queue behind log writes
	listener *listener
	log      *zap.Logger
	outages  *outages
	metrics  *metrics
	enqueues *batcher[enqueuing]
	closed   chan struct{} // when enqueues ends
	stop     context.CancelFunc
}

// Open connects to the database at url and starts to listen. While the database cannot be reached or its schema is
// older than SchemaVersion, it waits and says so in the log; it returns when ctx ends. A URL that cannot be right
// (unreadable, wrong password, no such database) is an error at once; its text holds no password.
//
// A URL may name several hosts (postgres://a,b/db): then connections are made to the one that may write, whichever that
// is, unless target_session_attrs says otherwise.
func Open(ctx context.Context, url string, options Options) (*DB, error) {
	log := options.Log
	if log == nil {
		log = zap.NewNop()
	}
	if options.ListenURL == "" {
		options.ListenURL = url
	}
	config, err := poolConfig(url, options.App)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	anew := make(chan struct{}, 1)
	config.ConnConfig.OnPgError = func(_ *pgconn.PgConn, failure *pgconn.PgError) (keep bool) {
		if troubleOfCode(failure.Code) == readOnly { // and will stay so: a new session may find the server that may write
			nudge(anew)
			return false
		}
		return failure.SeverityUnlocalized != "FATAL"
	}
	// A beat or a claim that a crash of the server forgets is as if it had not been made: the fence sees to that. So
	// neither waits for the disk.
	signConfig := config.Copy()
	signConfig.MinConns, signConfig.MaxConns = 0, 2
	signConfig.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	signConfig.ShouldPing = nobodyPings
	signConfig.ConnConfig.RuntimeParams["lock_timeout"] = "4s" // less than the deadline of a beat
	listenConfig, err := poolConfig(options.ListenURL, options.App)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_DATABASE_URL: %w", err)
	}

	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	signs, err := pgxpool.NewWithConfig(ctx, signConfig)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open pool for beats and claims: %w", err)
	}
	db := &DB{pool: pool, signs: signs, log: log, metrics: newMetrics(pool), closed: make(chan struct{})}
	db.outages = newOutages(log, db.busy)
	if err := db.waitForSchema(ctx); err != nil {
		signs.Close()
		pool.Close()
		return nil, err
	}

	// Both outlive ctx: after a SIGTERM the stage still drains. Close ends them.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	db.listener = newListener(listenConfig.ConnConfig, anew, log, db.outages, db.metrics)
	go db.listener.run(life)
	db.enqueues = newBatcher(maxEnqueue, db.writeEnqueues, (*enqueuing).fail)
	go func() { defer close(db.closed); db.enqueues.run(life) }()
	return db, nil
}

// busy is what else an operator wants to know when there is no answer in time.
func (db *DB) busy() []zap.Field {
	stat := db.pool.Stat()
	return []zap.Field{zap.Int32("connections_busy", stat.AcquiredConns()), zap.Int32("connections_max", stat.MaxConns())}
}

// Close ends every connection, and waits for those that are in use. Call it once, after Work and Reap have returned.
func (db *DB) Close() {
	db.stop()
	<-db.listener.done
	<-db.closed
	db.signs.Close()
	db.pool.Close()
}

// Pool is for a service's own queries. Its size is pool_max_conns in the URL, by default 4 or the number of CPUs, whichever
// is more. Sessions are in UTC; a statement may take 30 s, wait 8 s for a lock, and a transaction may rest for 10 s. They
// avoid sequential scans (enable_seqscan and jit are off): a query that wants a whole table sets that back with SET LOCAL.
// What a claim finds out belongs into Result.Commit, which is fenced; a job's status is Work's alone.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Metrics gathers the queue's (lockstep_…), Go's and the process's Prometheus metrics. A service registers its own beside
// them and serves them; package service does so.
func (db *DB) Metrics() *prometheus.Registry { return db.metrics.registry }

// Ready returns nil when the database answers and its schema is new enough. It asks for at most 2 s. It is for a readiness
// probe; nothing else needs to ask first, since Work and Reap wait for a database that is away.
func (db *DB) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return checkSchema(ctx, db.pool)
}

func poolConfig(url, app string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read URL: %w", err) // pgx leaves the password out of this error
	}
	config.ConnConfig.ConnectTimeout = 10 * time.Second // of each host: a login is four round trips
	dialer := &net.Dialer{KeepAlive: 15 * time.Second}
	config.ConnConfig.DialFunc = dialer.DialContext
	for name, value := range map[string]string{
		"application_name":                    app,
		"timezone":                            "UTC",
		"idle_in_transaction_session_timeout": "10s",
		"statement_timeout":                   "30s",
		"lock_timeout":                        "8s", // less than our own deadlines: the error says what is wrong
		// Each statement finds its rows by a key. The planner, who sees a table that is small now or was a minute ago,
		// would read it whole, up to 12 times slower (docs/adr/0011); jit, because a plan that has to scan is then
		// thought to be worth compiling. What does want to read a whole table sets them back with SET LOCAL.
		"enable_seqscan": "off", "jit": "off",
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingIdle }
	several := slices.ContainsFunc(config.ConnConfig.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return f.Host != config.ConnConfig.Host || f.Port != config.ConnConfig.Port
	})
	if several && config.ConnConfig.ValidateConnect == nil {
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return config, nil
}

// pingIdle is how long a connection may rest before it is asked whether it still works: longer than between two polls,
// which would cost twice the queries.
const pingIdle = 2 * time.Second

// nobodyPings: a beat or a claim on a broken connection fails, and the next one comes soon.
func nobodyPings(context.Context, pgxpool.ShouldPingParams) bool { return false }

var errSchemaOld = errors.New("schema is older than this build")

func checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	var version int
	var dirty bool
	err := pool.QueryRow(ctx, query("schema_version")).Scan(&version, &dirty)
	var failure *pgconn.PgError
	switch {
	case errors.As(err, &failure) && failure.Code == "42P01": // undefined_table: never migrated
		return fmt.Errorf("%w: it is empty, version %d is wanted; run `migrate up`", errSchemaOld, SchemaVersion)
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: it has no version, version %d is wanted; run `migrate up`", errSchemaOld, SchemaVersion)
	case err != nil:
		return fmt.Errorf("read schema version: %w", err)
	case dirty:
		return fmt.Errorf("%w: version %d stopped half-way", errSchemaOld, version)
	case version < SchemaVersion:
		return fmt.Errorf("%w: version %d, wanted %d; run `migrate up`", errSchemaOld, version, SchemaVersion)
	}
	return nil
}

func (db *DB) waitForSchema(ctx context.Context) error {
	wait := &Backoff{Next: 100 * time.Millisecond, Most: 2 * time.Second}
	for {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := checkSchema(attempt, db.pool)
		cancel()
		if err == nil {
			db.outages.worked("start")
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the database: %w", ctx.Err())
		}
		var failure *pgconn.PgError
		if errors.As(err, &failure) {
			switch failure.Code {
			case "28000", "28P01", "3D000", "42501": // wrong login, wrong password, no such database, no grant
				return fmt.Errorf("DATABASE_URL: %w", err)
			}
		}
		db.outages.failed("start", "waiting", err)
		if !wait.Sleep(ctx) {
			return fmt.Errorf("wait for the database: %w", ctx.Err())
		}
	}
}
