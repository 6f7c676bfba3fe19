// Package supervise sees to it that nothing outlives a sandbox: no QEMU, no
// swtpm, no run directory, however the launcher ends.
//
// Three layers, each for when the one before has failed:
//  1. every process gets SIGKILL when the launcher dies (Start);
//  2. a supervisor in a session of its own watches a pipe from the launcher; at
//     its end it kills what is left and removes the run directory (Watch, Main);
//  3. if that was killed too, the next command sweeps (Sweep).
//
// Trust zone: host. Invariant: a process is killed by pidfd, and only after its
// start time has been found to be the recorded one, so never by a recycled pid.
package supervise
