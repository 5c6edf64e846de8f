// Package supervise runs the processes of one job under a parent of their own, and leaves none of them behind.
//
// The runner starts its own binary again as `runner supervise`, one such supervisor a job, and speaks with
// it over two pipes: commands go down stdin (start a process, kill everything, ping), events come up stdout
// (output, exit codes, pongs). [Main] is the supervisor, [Start] the runner's end.
//
//	runner ── stdin: start, kill, ping ──▶ supervisor ──▶ step 1, its children, their daemons …
//	       ◀─ stdout: output, exit, killed, pong ──
//
// # Guarantees
//
//   - An exit code is one that the supervisor reaped and reported. A supervisor that vanishes is
//     [ErrSupervisorLost], never a success.
//   - What a process wrote before it ended arrives before its exit does. A grandchild that keeps the
//     output open delays nothing; what it writes later still arrives, until the job ends.
//   - Background processes live on between the steps of a job. All of them, also a daemon that forked
//     twice, called setsid and ignores SIGTERM, end with the job: at [Session.Close], at [Session.Kill], when the
//     runner is gone (its end of stdin closes), and when the runner has not pinged for Options.Silence
//     (it was stopped).
//
// # How nothing escapes
//
// Where Linux allows it the supervisor is process 1 of a PID namespace with a /proc of its own: root may
// always make one, others by way of a user namespace. Then kill(-1) reaches all, no process can leave, none
// sees a process outside or can kill the supervisor, and when the supervisor dies the kernel kills them.
//
// Elsewhere on Linux it is a child subreaper: orphans of the job become its children, so "no children left"
// means that nothing is left, and /proc shows whom to kill. Should a step kill the supervisor (it may, if
// it has the same uid), its direct children die of their death signal, and the rest become children of the
// runner, a subreaper itself, which kills them. Other systems have process groups only: there, a
// process that leaves its group is beyond reach.
//
// No step can gain privileges by a setuid program (no_new_privs): it could no longer be killed.
package supervise
