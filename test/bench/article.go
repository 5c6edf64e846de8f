package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// articleStage is a kind of worker in the article's design.
type articleStage struct{ takes, holds, gives string }

var (
	articleInitializer = articleStage{"new", "initializing", "initialized"}
	articleRunner      = articleStage{"initialized", "running", "success"}
)

const articleInsert = "INSERT INTO ci_jobs (repository, status, status_change_time) VALUES ('https://github.com/colinchartier/layerci-color-test', 'new', NOW())"

// article makes a database with the article's table and trigger, and nothing else.
func (s *server) article(ctx context.Context) (*database, error) {
	d, err := s.empty(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.exec(ctx, query("article")); err != nil {
		return nil, errors.Join(err, d.drop())
	}
	return d, nil
}

// articleWorkers starts n workers of each stage and returns when all of them listen. Each has one connection, on which it
// listens, claims until there is nothing, works, finishes, and waits for any notification.
func articleWorkers(ctx context.Context, d *database, n int, stages ...articleStage) (*crew, error) {
	c, working := newCrew(ctx)
	var listening sync.WaitGroup
	for _, stage := range stages {
		for range n {
			conn, err := pgx.Connect(working, d.url)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("connect a worker: %w", err), c.dismiss())
			}
			listening.Add(1)
			c.loops.Go(func() {
				defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
				_, err := conn.Exec(working, "LISTEN ci_jobs_status_channel")
				listening.Done()
				if err == nil {
					err = stage.work(working, conn)
				}
				if err != nil && working.Err() == nil {
					c.failed(err)
				}
			})
		}
	}
	listening.Wait()
	return c, nil
}

func (s articleStage) work(ctx context.Context, conn *pgx.Conn) error {
	claim := strings.NewReplacer("{{takes}}", s.takes, "{{holds}}", s.holds).Replace(query("article_claim"))
	finish := "UPDATE ci_jobs SET status = '" + s.gives + "' WHERE id = $1"
	for {
		var id int32
		err := conn.QueryRow(ctx, claim).Scan(&id, nil, nil, nil)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			if _, err := conn.WaitForNotification(ctx); err != nil {
				return fmt.Errorf("wait for a notification: %w", err)
			}
		case err != nil:
			return fmt.Errorf("claim: %w", err)
		default:
			if _, err := conn.Exec(ctx, finish, id); err != nil {
				return fmt.Errorf("finish job %d: %w", id, err)
			}
		}
	}
}

// articleDone waits until n jobs have succeeded. It asks seldom: without an index the question reads the whole table.
func articleDone(ctx context.Context, d *database, n int) error {
	return until(ctx, 3*time.Minute, 20*time.Millisecond, func() bool {
		done, err := value[int](ctx, d, "SELECT count(*) FROM ci_jobs WHERE status = 'success'")
		return err == nil && done >= n
	})
}
