package podpolicy

import "strings"

// capabilityNames are the kernel's capabilities 0 to 40, in order.
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// CapabilityNumber gives the kernel's number of "CAP_...".
func CapabilityNumber(name string) (int, bool) {
	for i, n := range capabilityNames {
		if name == "CAP_"+n {
			return i, true
		}
	}
	return 0, false
}

// AllCapabilities lists every capability as "CAP_...", by number.
func AllCapabilities() []string {
	out := make([]string, len(capabilityNames))
	for i, n := range capabilityNames {
		out[i] = "CAP_" + n
	}
	return out
}
