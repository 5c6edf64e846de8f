package main

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestTheTapSeesEachStatementOnce(t *testing.T) {
	url := os.Getenv("TEST_DATABASE_URL")
	tap, err := newTap(url)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.close()
	conn, err := pgx.Connect(t.Context(), tap.through(url))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	const insert, broken, update = "INSERT INTO seen SELECT generate_series(1, $1::int)", "SELECT 1 / $1::int", "UPDATE seen SET i = i + $1"
	if _, err := conn.Exec(t.Context(), "CREATE TEMP TABLE seen (i int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), insert, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), broken, 0); err == nil {
		t.Fatal("a division by zero is no error")
	}
	together := &pgx.Batch{}
	together.Queue(insert, 2)
	together.Queue(update, 1)
	if err := conn.SendBatch(t.Context(), together).Close(); err != nil {
		t.Fatal(err)
	}
	seen := tap.seen()
	want := []statement{{sql: "CREATE TEMP TABLE seen (i int)"}, {sql: insert, rows: 3}, {sql: broken}, {sql: insert, rows: 2}, {sql: update, rows: 5}}
	if len(seen) != len(want) {
		t.Fatalf("saw %d statements, want %d: %+v", len(seen), len(want), seen)
	}
	for i, s := range seen {
		if s.sql != want[i].sql || s.rows != want[i].rows || s.took <= 0 {
			t.Errorf("statement %d was %+v, want %+v", i, s, want[i])
		}
	}
	if again := tap.seen(); len(again) != 0 {
		t.Errorf("it tells of %d statements twice", len(again))
	}
}
