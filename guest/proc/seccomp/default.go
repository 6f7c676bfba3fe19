package seccomp

import (
	"maps"
	"slices"
)

// withheld lists the calls that the profile "runtime-default" keeps from
// containers, with the capability that opens them again ("" = none does). It is
// the set that container engines document for their default profile; every call
// that is neither here nor conditional below is allowed, and a call that the
// table does not know is not.
var withheld = map[string]string{
	// kernel code, boot, swap, accounting
	"init_module": "CAP_SYS_MODULE", "finit_module": "CAP_SYS_MODULE", "delete_module": "CAP_SYS_MODULE",
	"create_module": "", "query_module": "", "get_kernel_syms": "",
	"kexec_load": "", "kexec_file_load": "",
	"reboot": "CAP_SYS_BOOT", "acct": "CAP_SYS_PACCT", "swapon": "", "swapoff": "",
	"bpf": "CAP_SYS_ADMIN", "perf_event_open": "CAP_SYS_ADMIN", "fanotify_init": "CAP_SYS_ADMIN",
	"iopl": "CAP_SYS_RAWIO", "ioperm": "CAP_SYS_RAWIO", "syslog": "CAP_SYSLOG",
	"lookup_dcookie": "CAP_SYS_ADMIN", "quotactl": "CAP_SYS_ADMIN", "quotactl_fd": "CAP_SYS_ADMIN",
	"vhangup": "CAP_SYS_TTY_CONFIG", "userfaultfd": "",
	// time
	"settimeofday": "CAP_SYS_TIME", "clock_settime": "CAP_SYS_TIME",
	// mounts and namespaces
	"mount": "CAP_SYS_ADMIN", "umount2": "CAP_SYS_ADMIN", "pivot_root": "", "chroot": "CAP_SYS_CHROOT",
	"mount_setattr": "CAP_SYS_ADMIN", "move_mount": "CAP_SYS_ADMIN", "open_tree": "CAP_SYS_ADMIN",
	"open_tree_attr": "CAP_SYS_ADMIN",
	"fsopen":         "CAP_SYS_ADMIN", "fsconfig": "CAP_SYS_ADMIN", "fsmount": "CAP_SYS_ADMIN", "fspick": "CAP_SYS_ADMIN",
	"statmount": "CAP_SYS_ADMIN", "listmount": "CAP_SYS_ADMIN",
	"setns": "CAP_SYS_ADMIN", "unshare": "CAP_SYS_ADMIN", "sethostname": "CAP_SYS_ADMIN", "setdomainname": "CAP_SYS_ADMIN",
	"open_by_handle_at": "CAP_DAC_READ_SEARCH",
	// keys are not namespaced
	"add_key": "", "keyctl": "", "request_key": "",
	// other processes and their memory
	"process_vm_readv": "CAP_SYS_PTRACE", "process_vm_writev": "CAP_SYS_PTRACE", "pidfd_getfd": "CAP_SYS_PTRACE",
	"kcmp": "CAP_SYS_PTRACE", "process_madvise": "CAP_SYS_PTRACE",
	"get_mempolicy": "CAP_SYS_NICE", "set_mempolicy": "CAP_SYS_NICE", "mbind": "CAP_SYS_NICE", "move_pages": "CAP_SYS_NICE",
	"migrate_pages": "CAP_SYS_NICE", "set_mempolicy_home_node": "CAP_SYS_NICE",
	// a large attack surface that filters cannot see into
	"io_uring_setup": "", "io_uring_enter": "", "io_uring_register": "",
	// obsolete
	"_sysctl": "", "sysfs": "", "ustat": "", "uselib": "", "nfsservctl": "", "afs_syscall": "", "tuxcall": "",
	"security": "", "getpmsg": "", "putpmsg": "", "vserver": "", "epoll_ctl_old": "", "epoll_wait_old": "",
	"lsm_get_self_attr": "", "lsm_set_self_attr": "", "lsm_list_modules": "",
	// conditional below
	"clone": "", "clone3": "", "personality": "", "socket": "",
}

// cloneNamespaces are the CLONE_NEW* flags.
const cloneNamespaces = 0x7e020000

// RuntimeDefault gives the profile "runtime-default" for a container with the
// named capabilities.
func RuntimeDefault(capabilities []string) *Profile {
	p := &Profile{Default: Errno(1)}
	admin := slices.Contains(capabilities, "CAP_SYS_ADMIN")
	allow := []string{}
	for _, name := range slices.Sorted(maps.Keys(syscalls)) {
		c, held := withheld[name]
		if !held || (c != "" && slices.Contains(capabilities, c)) {
			allow = append(allow, name)
		}
	}
	if admin {
		allow = append(allow, "clone", "clone3")
	} else {
		p.Rules = append(p.Rules,
			Rule{Names: []string{"clone"}, Action: Allow, Args: []Arg{{Index: 0, Op: MaskedEqual, Value: cloneNamespaces}}},
			// its flags are behind a pointer; C libraries fall back to clone
			Rule{Names: []string{"clone3"}, Action: Errno(38)})
	}
	for _, v := range []uint64{0, 0x8, 0x20000, 0x20008, 0xffffffff} {
		p.Rules = append(p.Rules, Rule{Names: []string{"personality"}, Action: Allow, Args: []Arg{{Index: 0, Op: Equal, Value: v}}})
	}
	// AF_VSOCK would reach the host past the policy. The kernel takes the family as
	// 32 bits, whatever is in the upper half of the register.
	p.Rules = append(p.Rules,
		Rule{Names: []string{"socket"}, Action: Errno(1), Args: []Arg{{Index: 0, Op: MaskedEqual, Value: 0xffffffff, ValueTwo: 40}}},
		Rule{Names: append(allow, "socket"), Action: Allow})
	return p
}
