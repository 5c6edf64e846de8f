package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// run and job are what the launcher reads of the API's answers.
type run struct {
	ID     string `json:"id"`
	URL    string `json:"url"` // of the page
	Status string `json:"status"`
	Jobs   []job  `json:"jobs"`
}

type job struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Reason string `json:"reason"`
	Steps  []any  `json:"steps"` // none: there is no log either
}

func final(status string) bool {
	switch status {
	case "success", "failure", "error", "cancelled", "skipped":
		return true
	}
	return false
}

const (
	readyTimeout  = time.Minute
	answerTimeout = 30 * time.Second // the gateway may just be starting again
	retryPause    = 300 * time.Millisecond
)

// client speaks the public API, as a user's own program would.
type client struct {
	base, token string
}

// newClient's API is at HTTP_ADDR; one that means every address is asked on loopback.
func newClient(addr, token string) *client {
	host, port, _ := net.SplitHostPort(addr) // listenAddr has joined them
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return &client{base: "http://" + net.JoinHostPort(host, port), token: token}
}

// waitReady returns when the gateway says that it and its database are ready.
func (c *client) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("api-gateway does not get ready"))
	defer cancel()
	return c.retry(ctx, func() (bool, error) {
		answer, err := c.do(ctx, http.MethodGet, "/readyz", nil, nil)
		if err != nil {
			return false, err
		}
		return answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
}

// start asks for a run. However often it must ask, the key makes it one.
func (c *client) start(ctx context.Context, what repository) (started run, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("the API does not answer"))
	defer cancel()
	body, err := json.Marshal(struct {
		Repository string `json:"repository"`
		Ref        string `json:"ref,omitempty"`
		SHA        string `json:"sha,omitempty"`
	}{what.url, what.ref, what.sha})
	if err != nil {
		return run{}, err
	}
	header := http.Header{"Idempotency-Key": {rand.Text()}, "Content-Type": {"application/json"}}
	err = c.retry(ctx, func() (bool, error) { return c.decode(ctx, http.MethodPost, "/api/v1/runs", header, body, &started) })
	if err != nil {
		return run{}, fmt.Errorf("start a run of %s: %w", what.url, err)
	}
	return started, nil
}

// get reads a run.
func (c *client) get(ctx context.Context, id string) (got run, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("the API does not answer"))
	defer cancel()
	err = c.retry(ctx, func() (bool, error) { return c.decode(ctx, http.MethodGet, "/api/v1/runs/"+id, nil, nil, &got) })
	if err != nil {
		return run{}, fmt.Errorf("read run %s: %w", id, err)
	}
	return got, nil
}

// log opens a job's log, which goes on until the job ends.
func (c *client) log(ctx context.Context, jobID string) (io.ReadCloser, error) {
	answer, err := c.do(ctx, http.MethodGet, "/api/v1/jobs/"+jobID+"/log?follow=1", nil, nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("log of job %s: %s", jobID, answer.Status), answer.Body.Close())
	}
	return answer.Body, nil
}

// decode reads an answer into a value. It is false, to be tried again, while the gateway is away or not well, and
// an error when the gateway turned the request down.
func (c *client) decode(ctx context.Context, method, path string, header http.Header, body []byte, into any) (bool, error) {
	answer, err := c.do(ctx, method, path, header, body)
	if err != nil {
		return false, err
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	switch {
	case err != nil, answer.StatusCode >= 500:
		return false, nil
	case answer.StatusCode >= 400:
		var problem struct{ Title, Field, Detail string }
		if json.Unmarshal(content, &problem) != nil || problem.Title == "" {
			return false, errors.New(answer.Status)
		}
		return false, fmt.Errorf("%s: %s %s", problem.Title, problem.Field, problem.Detail)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	return true, nil
}

func (c *client) do(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	return http.DefaultClient.Do(request)
}

// retry asks until it succeeds. That nobody listens, or that a connection broke, is no failure: the gateway is
// started again when it ends.
func (c *client) retry(ctx context.Context, ask func() (bool, error)) error {
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if broken := new(net.OpError); err != nil && !errors.As(err, &broken) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
