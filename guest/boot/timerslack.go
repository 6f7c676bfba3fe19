package boot

import (
	"fmt"
	"os"
	"strconv"
)

// timerSlack is how late a timer of the guest's own processes may fire.
//
// Go's runtime has a watching thread in every process that sleeps 20 µs at a time
// as long as system calls take longer than that. With several such processes on
// few vCPUs each of these sleeps programs a timer, takes an interrupt and two
// context switches, each of them an exit to the hypervisor. The kernel may join
// such sleeps if it is allowed to let them run late.
const timerSlack = "4000000" // ns

// TimerSlack sets the slack of all threads of this process; later threads and
// child processes inherit it. container undoes it for workloads.
func TimerSlack() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("setting the timer slack: %w", err)
	}
	for _, t := range threads {
		if _, err := strconv.Atoi(t.Name()); err != nil {
			continue
		}
		err := os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(timerSlack), 0)
		if err != nil && !os.IsNotExist(err) { // a thread may have ended
			return fmt.Errorf("setting the timer slack: %w", err)
		}
	}
	return nil
}
