package hostcheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// What quotes need beside the kernel: Intel's architectural enclave service, and the
// configuration of the library that fetches a machine's certificate (SGX DCAP, QCNL).
const (
	aesmSocket = "/var/run/aesmd/aesm.socket"
	qcnlConfig = "etc/sgx_default_qcnl.conf"
)

// Files of the kernel that say how much memory enclaves can have: of each NUMA node
// in bytes (Linux 5.17), and of the whole machine as a control group has it (6.14).
const (
	epcOfNodes  = "sys/devices/system/node/node[0-9]*/x86/sgx_total_bytes"
	epcOfGroups = "sys/fs/cgroup/misc.capacity"
)

// sgx checks what an enclave and its quotes need.
func (h *Host) sgx(r *Report) {
	r.add(h.cpuFlag("sgx", "turn SGX and Total Memory Encryption on in the firmware setup; the CPU must be a Xeon that has it (3rd generation Scalable or newer)"))
	lc := h.cpuFlag("sgx_lc", "set launch control to unlocked in the firmware setup: the kernel's driver takes no CPU on which Intel alone can launch enclaves")
	lc.ID = "launch-control"
	r.add(lc)
	r.add(h.device("sgx-enclave", "enclaves can be made", "dev/sgx_enclave", "use a kernel with CONFIG_X86_SGX (5.11 or newer), and give the process access (group sgx)"))
	r.add(h.device("sgx-provision", "quotes can be made", "dev/sgx_provision", "give Intel's quoting service access to it (group sgx_prv)"))
	r.add(h.epc())
	r.add(h.socket("aesm", "Intel's architectural enclave service listens on "+aesmSocket, aesmSocket, "install and start aesmd (package sgx-aesm-service, with libsgx-aesm-quote-ex-plugin); without quotes an enclave cannot attest"))
	r.add(h.quoteProvider())
}

// epc says how much memory enclaves can have, by the best source that is there.
func (h *Host) epc() Check {
	c := Check{ID: "epc", What: "the machine has memory for enclaves (EPC)", Fix: "reserve memory for SGX (PRMRR) in the firmware setup"}
	total, source := h.epcBytes()
	c.OK = total > 0
	c.Found = fmt.Sprintf("%d MiB, by %s", total>>20, source)
	return c
}

func (h *Host) epcBytes() (total uint64, source string) {
	files, _ := filepath.Glob(h.path(epcOfNodes))
	for _, f := range files {
		b, err := readBounded(f, maxSysfs)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 63); err == nil && total+n >= total {
			total += n
		}
	}
	if total > 0 {
		return total, fmt.Sprintf("%d NUMA nodes", len(files))
	}
	if b, err := h.read(epcOfGroups, maxSysfs); err == nil {
		for line := range strings.Lines(string(b)) {
			name, n, _ := strings.Cut(strings.TrimSpace(line), " ")
			if v, err := strconv.ParseUint(n, 10, 63); err == nil && name == "sgx_epc" && v > 0 {
				return v, "/" + epcOfGroups
			}
		}
	}
	return h.CPU().EPC, "the CPU"
}

// quoteProvider checks where the machine's certificate comes from (PCCS). Both
// published forms are read: JSON with comment lines, and NAME=VALUE.
func (h *Host) quoteProvider() Check {
	c := Check{ID: "quote-provider", What: "the quote provider library knows its caching service (PCCS)", Fix: "install libsgx-dcap-default-qpl and name the service in /" + qcnlConfig + " (pccs_url)"}
	b, err := h.read(qcnlConfig, maxQCNL)
	if err != nil {
		c.Found = "/" + qcnlConfig + ": " + reason(err)
		return c
	}
	service := pccsURL(b)
	u, err := url.Parse(service)
	switch {
	case service == "":
		c.Found = "/" + qcnlConfig + " names none"
	case err != nil || u.Host == "":
		c.Found = fmt.Sprintf("/%s names %.80q, which is no URL", qcnlConfig, service)
	case u.Scheme != "https":
		c.Found = fmt.Sprintf("/%s names a service without TLS, at %.80s", qcnlConfig, u.Host)
	default:
		c.OK, c.Found = true, u.Host // what else a URL holds is not for a diagnosis
	}
	return c
}

// pccsURL gives the service that a configuration names, "" if there is none.
func pccsURL(b []byte) string {
	var lines [][]byte
	for line := range bytes.Lines(b) {
		if s := bytes.TrimSpace(line); !bytes.HasPrefix(s, []byte("//")) && !bytes.HasPrefix(s, []byte("#")) {
			lines = append(lines, line)
		}
	}
	var doc struct {
		URL string `json:"pccs_url"`
	}
	if err := json.Unmarshal(bytes.Join(lines, nil), &doc); err == nil {
		return doc.URL
	}
	for _, line := range lines {
		if name, value, ok := strings.Cut(string(line), "="); ok && strings.EqualFold(strings.TrimSpace(name), "pccs_url") {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
