/*
 * The protocol of pkg/jobs: one job; two worker processes, with two slots and one; two reapers; somebody who may cancel;
 * and faults. README.md says what is modelled and what is not; docs/glossary.md has the words.
 *
 * An atomic { } is one statement or transaction of PostgreSQL. Between two of them anything may happen, so a pause of
 * any length, a late reply and a clock that runs wrong need no model of their own.
 *
 * Each of these flags takes one rule away, and must be caught:
 *   NO_FENCE          a claim's writes name the job only
 *   STATE_FENCE       ... the job and the state that the claim holds
 *   ATTEMPT_FENCE     ... the job and the number of the attempt
 *   UNMARKED_REAP     the reaper takes a silent worker's job without marking the worker first
 *   UNFENCED_REAP     the reaper does not repeat the token of the claim that it judged
 *   BLIND_MARK        the reaper marks a worker without comparing the beat with the one it saw
 *   UNHELD_CLAIM      a claim looks at its worker's row without holding it
 *   FORGETFUL_FINISH  a finish that comes again does not ask whether it ended the claim before
 *   BLIND_CANCEL      a cancel does not ask whether the job has ended
 *   DEAF_RELEASE      a release does not ask whether the job is to be cancelled
 *   NO_GIVE_BACK      a worker keeps claims that nobody there works on
 *   NO_DEADLINE       nothing ends a claim whose worker beats
 * These make the model smaller: NO_FAILOVER takes one kind of fault away, ONE_REAPER the second reaper.
 */

#ifndef FAULTS
#define FAULTS 2        /* how many may happen, of any kind and in any order */
#endif
#define FAULT (faults < FAULTS) -> faults++
byte faults;

#define MAX_FAILURES 2  /* infrastructure failures of one stage before the job ends as error */

/* The job's status. The user's failure is a success here: the path is the same. */
mtype = { new, initializing, initialized, running, blocked, success, error, cancelled };
#define CLAIMABLE(status) (status == new || status == initialized)
#define HELD(status)      (status == initializing || status == running)
#define FINAL(status)     (status == success || status == error || status == cancelled)

/* A claim token, a random UUID. All that matters of one is whether it is the job's, and a fresh one differs from all
 * that went before. So whoever remembers the token of a claim that has ended has an old one; one is like another. */
mtype = { fresh, old };

/* The job: a row of ci_jobs. */
typedef Job {
	mtype status;
	mtype admit_to;         /* the claimable state that it goes back to */
	mtype token;            /* the fence; 0: nobody holds the job */
	byte worker;            /* whose claim it is; 0: nobody's */
	byte failures;          /* infrastructure failures and crashes of this stage */
	bool cancel;            /* somebody has asked for its end */
#ifdef ATTEMPT_FENCE
	byte attempt
#endif
};
Job job;

/* The workers: rows of ci_workers. One that is not in use is as good as one that was marked long ago. */
#define WORKERS 5
mtype = { marked, alive, robbed /* alive, but a reaper took its job as a dead worker's */ };
mtype worker[WORKERS + 1];

/* What a worker's process knows of itself. */
typedef OfProcess {
	byte worker;            /* its row */
	bool stopping;          /* it was told to stop */
	mtype suspect           /* the token of a claim that is the worker's, and that nobody there works on; 0: none */
};
OfProcess process[2];

/* What is known in a slot of one claim, and, to judge by, what is true of it. */
typedef OfSlot {
	byte claiming;          /* the worker for which a claim is in flight, 0: none; it holds the worker's row (FOR SHARE) */
	mtype token;            /* of the claim in hand; 0: none */
	mtype holds;            /* the state that it holds */
	bool hangs;             /* the handler never returns */
	bool ended;             /* in truth, the claim has ended, */
	bool finished;          /* with the state that its finish gives (ci_attempts has its token and outcome) */
#ifdef ATTEMPT_FENCE
	byte attempt
#endif
};
OfSlot slot[3];
#define OWNER(s) (s < 2 -> 0 : 1)
#define WORKS(s) (slot[s].token == fresh)
#define FREE(s)  (slot[s].token == 0 && slot[s].claiming == 0)

/* What a reaper remembers from one statement to the next. */
typedef OfReaper {
	byte watched;           /* a worker whose beat is as old as its lease; 0: none */
	bool beaten;            /* it has beaten since: mark_dead compares beats, for equality only */
	mtype token;            /* of the claim that is to be ended; 0: none */
	bool dead               /* why: its worker is dead, or else its deadline is over */
};
OfReaper reaper[2];

/* fence: does the database accept a write of this slot's claim? */
#if defined(NO_FENCE)
#define FENCE(s) true
#elif defined(STATE_FENCE)
#define FENCE(s) (job.status == slot[s].holds)
#elif defined(ATTEMPT_FENCE)
#define FENCE(s) (HELD(job.status) && job.attempt == slot[s].attempt)
#else
#define FENCE(s) (job.token == slot[s].token)
#endif

/* move: a transition of the job. Final states have no exit. */
inline move(to) {
	printf("job: %e -> %e\n", job.status, to);
	assert(!FINAL(job.status));
	job.status = to
}

/* GIVES: the state that the finish of a handler gives which has done its work. */
#define GIVES(s) (slot[s].holds == running -> success : initialized)

/* end_claim: a transition that ends the claim by which the job is held. Whoever remembers its token has an old one now. */
inline end_claim(to) {
	for (i : 0 .. 2) {
		if
		:: slot[i].token == fresh -> slot[i].token = old; slot[i].ended = true; slot[i].finished = (to == GIVES(i))
		:: else
		fi
	}
	for (i : 0 .. 1) {
		if
		:: reaper[i].token == fresh -> reaper[i].token = old
		:: else
		fi;
		if
		:: process[i].suspect == fresh -> process[i].suspect = old
		:: else
		fi
	}
	i = 0;
	job.token = 0;
	job.worker = 0;
	move(to)
}

/* write: the database accepts a write of slot s. Its claim must not have ended: a transition is applied at most once for
 * a claim, and what is stale changes nothing. */
inline write(s) {
	assert(!slot[s].ended)
}

/* finish: end the claim with the job's next state. A job that is to be cancelled goes no further than its claim. A claim
 * that is not there any more was lost, unless an earlier try of this finish has ended it. */
#ifdef FORGETFUL_FINISH
#define OURS(s) false
#else
#define OURS(s) slot[s].finished
#endif
inline finish(s) {
	printf("slot %d: finishes its %e claim\n", s, slot[s].token);
	if
	:: FENCE(s) ->
		write(s);
		job.failures = 0;
		if
		:: job.cancel && slot[s].holds == initializing -> end_claim(cancelled)
		:: else -> applied = true; end_claim(GIVES(s))
		fi
	:: else -> assert(applied == OURS(s)) /* the answer is true */
	fi
}

/* finish, of a handler that was told to cancel and has cleaned up. */
inline finish_cancelled(s) {
	printf("slot %d: ends its %e claim as cancelled\n", s, slot[s].token);
	if
	:: FENCE(s) -> write(s); job.failures = 0; end_claim(cancelled)
	:: else
	fi
}

/* fail: an infrastructure failure. The job waits for the end of its backoff. */
inline fail(s) {
	printf("slot %d: fails its %e claim\n", s, slot[s].token);
	if
	:: FENCE(s) ->
		write(s);
		job.failures++;
		if
		:: job.cancel -> end_claim(cancelled)
		:: else -> end_claim(blocked)
		fi
	:: else
	fi
}

/* release: give the job back. No failure is counted. */
inline give_back() {
	if
#ifndef DEAF_RELEASE
	:: job.cancel -> end_claim(cancelled)
#endif
	:: else -> end_claim(job.admit_to)
	fi
}
inline release(s) {
	printf("slot %d: releases its %e claim\n", s, slot[s].token);
	if
	:: FENCE(s) -> write(s); give_back()
	:: else
	fi
}

/* Nothing of a claim is left in the slot. */
inline forget(s) {
	slot[s].token = 0;
	slot[s].holds = 0;
	slot[s].hangs = false;
	slot[s].ended = false;
	slot[s].finished = false;
#ifdef ATTEMPT_FENCE
	slot[s].attempt = 0
#endif
}

/* A slot: claim a job, handle it, end the claim, again. */
proctype Slot(byte s) {
	byte i;
	bool applied;           /* in truth, an earlier try of the finish has given the job its next state */
#define P process[OWNER(s)]
free:
	/* A claim begins: its worker lives, and its row is held, so that a mark must wait. Of two free slots the first takes it. */
	atomic {
		CLAIMABLE(job.status) && worker[P.worker] != marked && !P.stopping && (s != 1 || slot[0].token != 0) ->
		slot[s].claiming = P.worker
	}
	/* It takes the job, if nobody else has, and commits. The trigger draws the token and counts the attempt. */
	atomic {
		if
		:: CLAIMABLE(job.status) ->
			printf("slot %d: claims for worker %d\n", s, slot[s].claiming);
			assert(worker[slot[s].claiming] != marked); /* the dead claim nothing */
			assert(!job.cancel);                        /* what is to be cancelled starts nothing new */
			slot[s].holds = (job.status == new -> initializing : running);
#ifdef ATTEMPT_FENCE
			slot[s].attempt = job.attempt + 1;
#endif
			if
			:: slot[s].token = fresh;
				job.token = fresh;
				job.worker = slot[s].claiming;
				job.admit_to = job.status;
#ifdef ATTEMPT_FENCE
				job.attempt++;
#endif
				move(slot[s].holds)
#ifndef NO_FAILOVER
			:: FAULT; /* the server is lost, and the one that takes over has not heard of the claim */
				slot[s].token = old;
				slot[s].ended = true;
				printf("a failover forgets the claim\n")
#endif
			fi;
			if
			:: slot[s].claiming != P.worker -> forget(s) /* its process has died meanwhile */
			:: else
			fi
		:: else
		fi;
		slot[s].claiming = 0;
		if
		:: slot[s].token == 0 -> goto free
		:: else
		fi
	}
	/* The handler works, and ends its claim, whether it still has it or not. */
working:
	atomic {
		!slot[s].hangs ->
		if
		:: slot[s].token == 0 -> applied = false; goto free /* its process has died */
		:: else
		fi;
		if
		:: finish(s)
		:: fail(s)
		:: P.stopping -> release(s)
		:: job.cancel -> finish_cancelled(s)
		:: FAULT; /* the reply to the claim is lost; or it is cancelled for too long a silence, or gives up writing */
			printf("slot %d: forgets its %e claim\n", s, slot[s].token)
		:: FAULT; /* the handler hangs until its process dies */
			slot[s].hangs = true;
			printf("slot %d: hangs\n", s);
			goto working
		fi;
		if
		:: forget(s); applied = false; goto free
		:: FAULT; /* the reply is lost: it writes again */
			printf("slot %d: does not hear the reply\n", s);
			goto working
		fi
	}
}

/* register: a row of ci_workers that nobody else means. */
#define MEANT(w) (worker[w] != marked || w == process[0].worker || w == process[1].worker || \
                  w == job.worker || w == reaper[0].watched || w == reaper[1].watched)
inline register(p) {
	i = 1;
	do
	:: MEANT(i) -> i++
	:: else -> break
	od;
	assert(i <= WORKERS);
	process[p].worker = i;
	process[p].suspect = 0;
	worker[i] = alive;
	printf("process %d: registers as worker %d\n", p, i);
	i = 0
}

#define DRAINED(p)  (process[p].stopping && (p == 0 -> FREE(0) && FREE(1) : FREE(2)))
#define ORPHANED(p) (job.worker == process[p].worker && (p == 0 -> !WORKS(0) && !WORKS(1) : !WORKS(2)))

/* A worker's process: it beats, registers anew when it has to, and leaves when it is told to stop. Another takes its place. */
proctype Process(byte p) {
	byte i;
#define W process[p].worker
	do
	:: atomic {
		/* beat: the worker lives, and learns what it holds. */
		!DRAINED(p) && process[p].suspect == 0 ->
		if
		:: worker[W] != marked ->
			assert(worker[W] != robbed); /* who lives has lost no job as a dead worker */
			for (i : 0 .. 1) {
				if
				:: reaper[i].watched == W && !reaper[i].beaten ->
					reaper[i].beaten = true;
					printf("process %d: worker %d beats\n", p, W)
				:: else
				fi
			}
			i = 0;
#ifndef NO_GIVE_BACK
			if
			:: ORPHANED(p) -> process[p].suspect = fresh
			:: !ORPHANED(p) && job.worker == W && FAULT; /* the reply to the claim is later than two beats */
				process[p].suspect = fresh
			:: !ORPHANED(p)
			fi
#endif
		:: else -> /* its handlers are told that their claims are lost; those that write nevertheless find so */
			printf("process %d: the beat of worker %d is refused\n", p, W);
			register(p)
		fi
	   }
	:: atomic {
		/* Two beats have seen a claim that nobody here works on: release it. */
		process[p].suspect != 0 ->
		printf("process %d: gives back its %e claim, that nobody works on\n", p, process[p].suspect);
		if
		:: job.token == process[p].suspect -> give_back()
		:: else
		fi;
		process[p].suspect = 0
	   }
	:: atomic {
		/* It is told to stop: it claims nothing more, and ends or gives back what it has. */
		!process[p].stopping && !FINAL(job.status) && FAULT;
		process[p].stopping = true;
		printf("process %d: is told to stop\n", p)
	   }
	:: atomic {
		/* leave: what the worker should still hold is reaped at once. */
		DRAINED(p) ->
		printf("process %d: worker %d leaves\n", p, W);
		worker[W] = marked;
		process[p].stopping = false;
		register(p)
	   }
	:: atomic {
		/* It dies: what it knew is gone; its row stays, and is silent. */
		!FINAL(job.status) && FAULT;
		printf("process %d: dies\n", p);
		for (i : 0 .. 2) {
			if
			:: OWNER(i) == p -> forget(i)
			:: else
			fi
		}
		process[p].stopping = false;
		register(p)
	   }
	od
}

/* What a reaper sees, and what it repeats. */
#define SILENT(w)   (worker[w] != marked && w != process[0].worker && w != process[1].worker)
#define SOME_SILENT (SILENT(1) || SILENT(2) || SILENT(3) || SILENT(4) || SILENT(5))
#define SLOW(p)     (worker[process[p].worker] != marked && faults < FAULTS)
#define HANGS       ((slot[0].hangs && WORKS(0)) || (slot[1].hangs && WORKS(1)) || (slot[2].hangs && WORKS(2)))
#ifdef UNHELD_CLAIM
#define LOCKED(w)   false
#else
#define LOCKED(w)   (w == slot[0].claiming || w == slot[1].claiming || w == slot[2].claiming)
#endif
#ifdef BLIND_MARK
#define UNBEATEN    true
#else
#define UNBEATEN    !R.beaten
#endif
#ifdef UNMARKED_REAP
#define DEAD(w)     (w == R.watched && w != 0)
#else
#define DEAD(w)     (worker[w] == marked)
#endif
#ifdef NO_DEADLINE
#define OVERDUE     false
#else
#define OVERDUE     (HANGS || faults < FAULTS)
#endif
#ifdef UNFENCED_REAP
#define JUDGED      HELD(job.status)
#else
#define JUDGED      (job.token == R.token)
#endif

/* A reaper: it marks silent workers, ends the claims of marked ones and those past their deadline, and admits what is
 * blocked. The second one begins what the first is at already: they are alike, so no case is lost. */
proctype Reaper(byte r) {
	byte i;
#define R reaper[r]
	do
	:: atomic {
		/* survey: the process of this worker has died, or, as a fault, is slow. */
		R.watched == 0 && R.token == 0 && (r == 0 || reaper[0].watched != 0) && !FINAL(job.status) &&
		(SOME_SILENT || SLOW(0) || SLOW(1)) ->
		if
		:: SILENT(1) -> R.watched = 1
		:: SILENT(2) -> R.watched = 2
		:: SILENT(3) -> R.watched = 3
		:: SILENT(4) -> R.watched = 4
		:: SILENT(5) -> R.watched = 5
		:: SLOW(0) -> faults++; R.watched = process[0].worker
		:: SLOW(1) -> faults++; R.watched = process[1].worker
		fi;
		printf("reaper %d: worker %d is silent\n", r, R.watched)
	   }
#ifndef UNMARKED_REAP
	:: atomic {
		/* mark_dead: behind the worker's claims in flight, and only if it has not beaten since. */
		R.watched != 0 && R.token == 0 && !LOCKED(R.watched) ->
		if
		:: worker[R.watched] != marked && UNBEATEN ->
			printf("reaper %d: marks worker %d\n", r, R.watched);
			assert(!R.beaten); /* who has beaten is not dead */
			worker[R.watched] = marked
		:: else
		fi;
		R.watched = 0;
		R.beaten = false
	   }
#endif
	:: atomic {
		/* survey: judge the claim. */
		HELD(job.status) && (DEAD(job.worker) || OVERDUE) && R.token == 0 && (r == 0 || reaper[0].token != 0) ->
		if
		:: DEAD(job.worker) -> R.dead = true
		:: else ->
			if
			:: HANGS
			:: else -> faults++ /* the handler is only slow */
			fi
		fi;
		R.token = job.token;
		printf("reaper %d: the claim is lost\n", r)
	   }
	:: atomic {
		/* reap: end that claim and no other. A death counts as a failure; a deadline ends the job. */
		R.token != 0 ->
		printf("reaper %d: reaps the claim, which is %e\n", r, R.token);
		if
		:: JUDGED ->
			if
			:: R.dead && worker[job.worker] == alive -> worker[job.worker] = robbed
			:: else
			fi;
			job.failures = job.failures + (R.dead -> 1 : 0);
			if
			:: job.cancel -> end_claim(cancelled)
			:: else ->
				if
				:: !R.dead || job.failures >= MAX_FAILURES -> end_claim(error)
				:: else -> end_claim(job.admit_to)
				fi
			fi
		:: else
		fi;
		R.token = 0;
		R.dead = false;
#ifdef UNMARKED_REAP
		R.watched = 0;
		R.beaten = false
#endif
	   }
	:: atomic {
		/* admit, when the backoff is over; or end what has failed too often (exhaust). */
		job.status == blocked ->
		if
		:: job.failures >= MAX_FAILURES -> move(error)
		:: else -> move(job.admit_to)
		fi
	   }
	od
}

/* Somebody may ask for the run's end, or never. What nobody holds is cancelled at once; a holder learns it. */
#ifdef BLIND_CANCEL
#define UNFINISHED true
#else
#define UNFINISHED !FINAL(job.status)
#endif
proctype Somebody() {
	do
	:: !job.cancel
	:: atomic {
		!job.cancel && UNFINISHED ->
		job.cancel = true;
		printf("somebody cancels\n");
		if
		:: HELD(job.status)
		:: else -> move(cancelled)
		fi
	   }
	od
}

init {
	byte i;
	atomic {
		job.status = new;
		job.admit_to = new;
		for (i : 0 .. WORKERS) {
			worker[i] = marked
		}
		register(0);
		register(1);
		run Slot(0); run Slot(1); run Process(0);
		run Slot(2); run Process(1);
		run Reaper(0);
#ifndef ONE_REAPER
		run Reaper(1);
#endif
		run Somebody()
	}
}

/* A job is never held by two live claims: of no two would the database accept a write. */
#define LIVE(s) (slot[s].token != 0 && FENCE(s))
ltl exclusive { [] !((LIVE(0) && LIVE(1)) || (LIVE(0) && LIVE(2)) || (LIVE(1) && LIVE(2))) }

/* However many faults there were: once they have stopped, the job ends. */
ltl ends { <> FINAL(job.status) }
