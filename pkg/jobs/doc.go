// Package jobs is a job queue and a publish/subscribe channel on one PostgreSQL: rows of ci_jobs, claimed under row
// locks and moved by stages, each through its own processing → processed pair of states.
//
//	            ┌────────────── released, reaped ──────────────┐
//	            ▼                                              │
//	INSERT → new ──claim──▶ initializing ──▶ initialized ──claim──▶ running ──▶ success │ failure │ error
//	                              │               ▲                    │
//	                              └──▶ blocked ───┴──── backoff ◀──────┘        (cancelled: from anywhere unfinished)
//
// A program opens the database once, with [Open], and then does one or more of these:
//
//   - ask for runs: [DB.Enqueue], [EnqueueTx] where that belongs into a transaction, [DB.Rerun], [DB.Cancel];
//   - be a stage: [DB.Work] claims jobs and calls the function of a [Stage] for each of them;
//   - watch: [DB.Listen] says when to look, [DB.Pool] is there to look with;
//   - reap: [DB.Reap], in one process at least, gives the jobs of the dead to the living.
//
// A stage more is two migrations and a small binary: docs/add-a-stage.md. What stages tell each other is in the packages below
// this one: spec (what a job is to do), source (a commit's tree), joblog (what a job said); service is the frame of a process
// (settings, logger, signals, metrics), and jobstest gives a test a database of its own.
//
// The rules live in the database (package migrations) and hold for every writer, psql included: transitions are legal
// by table, a trigger stamps time, attempt and claim token, and one trigger follows every end of a job: dependents,
// the run, what GitHub is told.
//
// # Guarantees
//
// Each is named by the tests that would falsify it.
//
//  1. An accepted run is never lost: Enqueue returns after the commit, and the same idempotency key is the same run.
//     (TestEnqueueIsDurableAndIdempotent, TestTheQueueDoesAsItsModelDoes)
//  2. A job is never held by two live claims. (TestClaimHandsEachJobToOneWorker, TestTheQueueDoesAsItsModelDoes)
//  3. A claim takes at most as many jobs as it asked for, in their turn. (TestClaimTakesAtMostWhatItAskedFor,
//     TestTheQueueDoesAsItsModelDoes)
//  4. Every later write of a claim names its token: finish (and what it commits), failure, release, steps and log. One that comes too late
//     changes nothing, also when the same process holds the job again. A reaper names the claim that it judged, too, and a
//     worker that was marked dead beats no more. (TestAStaleClaimChangesNothingThoughItsProcessHoldsTheJobAgain,
//     TestFinishOfALostClaimChangesNothing, TestALostClaimStoresNothingMore,
//     TestAReaperEndsTheClaimThatItJudgedAndNoOther, TestBeatOfAMarkedWorkerIsRefused)
//  5. A transition is applied at most once per claim, also when the reply to its commit is lost, and only legal ones are.
//     Final states have no exit. (TestFinishTwiceIsOneTransition, TestOnlyLegalTransitionsAreMade,
//     TestEveryInterleavingOfTwoTransitionsKeepsTheRules)
//  6. A dead worker's jobs are taken back within its lease and two looks of the reaper; a restart of PostgreSQL kills nobody.
//     (TestReaperReturnsADeadWorkersJobs, TestReaperLeavesAWorkerThatBeats, TestReaperForgivesItsOwnSilence)
//  7. Dependents start exactly once, after all they need, and are skipped when one of those did not succeed.
//     (TestDependentsStartOnceWhenParentsEndTogether, TestWhatNeedsAFailedJobIsSkipped,
//     TestEveryInterleavingOfTwoTransitionsKeepsTheRules)
//  8. Stopping a worker gives its jobs back and uses up none of their tries. (TestStoppingGivesJobsBack,
//     TestStoppingUsesUpNoAttempt)
//  9. A notification is a hint. A lost one costs at most Poll, and with notifications switched off all of this holds, only
//     slower. (TestALostWakeCostsAtMostAPoll; `make test` runs the tests of this package without notifications too)
//  10. Once faults stop, every run reaches a final state: after a lease the dead are noticed, after its backoff or its
//     deadline a job goes on or ends, and after MaxFailures or MaxCrashes it ends. (TestEveryRunEndsOnceFaultsStop,
//     TestErrorsAreTriedAgainAndEndAfterTooMany, TestReaperEndsAJobWhoseWorkersKeepDying,
//     TestReaperEndsAJobPastItsDeadlineThoughItsWorkerBeats)
//  11. What is cancelled starts nothing new, and ends. (TestCancelReachesTheHandler, TestCancelEndsAtOnceWhatNobodyHolds,
//     TestAnAnswerToACancelledRunIsCancelled, TestEveryInterleavingOfTwoTransitionsKeepsTheRules)
//  12. No two transitions deadlock, however they meet. (TestEveryInterleavingOfTwoTransitionsKeepsTheRules,
//     TestUnderLoadEveryRunEndsAndNothingDeadlocks)
//
// # Failures and answers
//
//	the worker's process dies          its beat stops; the reaper marks it, gives its jobs to others
//	the worker stops for a while       it finds itself marked, cancels its handlers, registers anew
//	PostgreSQL goes away               workers stop claiming and keep their handlers; writes are retried
//	it stays away for two leases       handlers are cancelled: others may hold the jobs by now
//	the reply to a claim is lost       two beats later the worker gives back what it does not know of
//	a notification is lost             the next poll finds the work, at most Poll later
//	a handler hangs                    the reaper ends the job at its deadline
//	a handler returns an error         blocked until the end of a backoff, then again; `error` after too many
package jobs
