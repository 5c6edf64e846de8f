// Package model has the GraphQL types for which the definition has no message.
package model

import (
	lockstepv1 "github.com/lockstep-ci/lockstep/services/api-gateway/gen/lockstep/v1"
)

// Job is a job, and its run as of the same moment.
type Job struct {
	*lockstepv1.Job
	Run *lockstepv1.Run
}

// RunConnection is a page of runs.
type RunConnection struct {
	Edges    []*RunEdge
	PageInfo *PageInfo
}

// RunEdge is a run and the place behind it.
type RunEdge struct {
	Cursor string
	Node   *lockstepv1.Run
}

// PageInfo is what lies around a page.
type PageInfo struct {
	HasNextPage, HasPreviousPage bool
	StartCursor, EndCursor       *string // nil: the page is empty
}

// RunFilter is what a run must be to be listed. nil asks nothing.
type RunFilter struct {
	Repository, Status, Event, Ref *string
	PullRequest                    *int32
}
