// Command bareinit is the smallest PID 1: it prints one line and powers off.
// Booting it is T_bare, the yardstick of docs/performance.md: the same QEMU,
// firmware, vTPM, kernel and memory as a pod's VM, without Coffer.
//
// With the word "coffer.eventlog" on the kernel command line it first prints
// the firmware's event log in hex: tests compare it with the computed one.
package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("COFFER-BARE-INIT")
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("mounting /proc:", err)
	}
	if b, err := os.ReadFile("/proc/cmdline"); err == nil && strings.Contains(string(b), "coffer.eventlog") {
		dumpEventLog()
		time.Sleep(3 * time.Second) // the host removes the console's log with the VM
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("powering off:", err)
	}
}

func dumpEventLog() {
	for _, m := range [][2]string{{"sysfs", "/sys"}, {"securityfs", "/sys/kernel/security"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("mounting", m[1]+":", err)
		}
	}
	b, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		fmt.Println("reading event log:", err)
	}
	// Lines with a prefix, so that kernel messages in between do no harm.
	for len(b) > 0 {
		n := min(48, len(b))
		fmt.Println("EVENTLOG", hex.EncodeToString(b[:n]))
		b = b[n:]
	}
	for i := range 24 {
		v, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", i))
		if err != nil {
			fmt.Println("reading PCR:", err)
			return
		}
		fmt.Printf("PCR %d %s\n", i, strings.TrimSpace(string(v)))
	}
	fmt.Println("EVENTLOG-END")
}
