package jobs

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a caller may have to act on; ask with errors.Is. The first four are causes of the end of a handler's context
// ([context.Cause]), the others answers.
var (
	// ErrClaimLost means that the job is no longer ours: a reaper, an operator or a deadline took it. Stop, and
	// write nothing more.
	ErrClaimLost = errors.New("jobs: claim lost")

	// ErrCancelled means that somebody asked for the run's end. Clean up, then return.
	ErrCancelled = errors.New("jobs: cancelled")

	// ErrStopping means that this process must end and its grace period is over. Return; the job is given back
	// and no failure is counted.
	ErrStopping = errors.New("jobs: worker is stopping")

	// ErrDeadline means that the job held its claim for as long as its timeout allows. Return at once.
	ErrDeadline = errors.New("jobs: deadline passed")

	// ErrNotFound means that there is no such run: Cancel and Rerun.
	ErrNotFound = errors.New("jobs: not found")

	// ErrEnded means that the run has reached a final state, which it never leaves: Cancel.
	ErrEnded = errors.New("jobs: run has ended")

	// ErrKeyReused means that the idempotency key was used before, for another request: Enqueue and Rerun. Use a new key.
	ErrKeyReused = errors.New("jobs: idempotency key reused for another request")
)

// Unavailable reports whether an error is the database's condition and no fault of what was asked: it is gone, starts or
// stops, is full, locked, read-only or too slow. The same may succeed later, so try again.
func Unavailable(err error) bool {
	trouble := troubleOf(err)
	return trouble != "" && trouble != unexpected
}

// trouble is what keeps the database from serving, for an operator: what is wrong, and where to look.
type trouble string

const (
	unreachable trouble = "PostgreSQL cannot be reached, or closed the connection: look at DATABASE_URL's host and port, the network, and whether the server runs"
	restarting  trouble = "PostgreSQL is starting, stopping or restarting, or an administrator ended the session"
	login       trouble = "PostgreSQL refuses the login: look at DATABASE_URL's user, password and database, at pg_hba.conf and at `migrate roles`"
	crowded     trouble = "PostgreSQL takes no more connections: raise max_connections or the CONNECTION LIMIT of role or database, or run fewer processes"
	readOnly    trouble = "the database is read-only: a failover, or default_transaction_read_only; connections are dialled anew until one may write"
	diskFull    trouble = "PostgreSQL's disk is full"
	exhausted   trouble = "PostgreSQL is out of memory, locks or another resource: look at its log"
	locked      trouble = "rows or tables are locked by another session, as by a long transaction: look at pg_locks and pg_blocking_pids()"
	slow        trouble = "no answer in time: PostgreSQL is slow, or all our own connections are busy (pool_max_conns in DATABASE_URL)"
	clash       trouble = "PostgreSQL rolled the transaction back because of another one"
	oldSchema   trouble = "the tables are missing or older than this build: run `migrate up`"
	unexpected  trouble = "an error that is not expected here"
)

// troubleOf tells what is wrong with the database by an error of it; "" for no error. Codes are SQLSTATEs (PostgreSQL
// manual, appendix A).
func troubleOf(err error) trouble {
	if err == nil {
		return ""
	}
	if errors.Is(err, errReadOnly) || errors.Is(err, pgconn.ErrReadOnlyConnection) || errors.Is(err, pgconn.ErrStandbyConnection) {
		return readOnly
	}
	if errors.Is(err, errSchemaOld) {
		return oldSchema
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		if what := troubleOfCode(answer.Code); what != unexpected {
			return what
		}
	}
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &connect):
		return unreachable
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return slow
	case errors.As(err, &network), pgconn.SafeToRetry(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return unreachable
	}
	return unexpected
}

func troubleOfCode(code string) trouble {
	switch code {
	case "25006": // read_only_sql_transaction
		return readOnly
	case "3D000": // invalid_catalog_name
		return login
	case "53100": // disk_full
		return diskFull
	case "53300": // too_many_connections
		return crowded
	case "55P03": // lock_not_available: lock_timeout
		return locked
	case "57014": // query_canceled: statement_timeout
		return slow
	}
	if len(code) != 5 {
		return unexpected
	}
	switch code[:2] {
	case "08", "58": // connection; system error, like a file that cannot be read
		return unreachable
	case "25": // idle_in_transaction_session_timeout: we were too slow ourselves
		return slow
	case "28":
		return login
	case "40": // deadlock, serialization
		return clash
	case "53":
		return exhausted
	case "57": // operator intervention
		return restarting
	}
	return unexpected
}

// refused reports whether the database will never accept this write: bad data, a broken rule, no right to it (SQLSTATE
// classes 22, 23, 42 and P0). To try again would be in vain.
func refused(err error) bool {
	var failure *pgconn.PgError
	if !errors.As(err, &failure) || len(failure.Code) != 5 {
		return false
	}
	switch failure.Code[:2] {
	case "22", "23", "42", "P0":
		return true
	}
	return false
}
