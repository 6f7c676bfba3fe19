package kbsconfig

import (
	"fmt"
	"time"

	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/provisioner"
)

// plugins takes those that are here; every other one is refused, since what clients ask
// it for would be missing.
func (r *reader) plugins(v any) {
	if v == nil {
		return
	}
	l, ok := tables(v)
	if !ok {
		r.refuse("plugins", "not a list of tables")
	}
	for i, p := range l {
		at := fmt.Sprintf("plugins[%d]", i)
		switch name, _ := p["name"].(string); name {
		case "external":
			r.external(at, p)
		case "resource":
			r.secrets(at, p)
		case provisioner.Name:
			r.provisioner(at, p)
		case nebulaca.Name:
			r.nebula(at, p)
		case "pkcs11":
			r.pkcs11(at, p)
		default:
			r.refuse(at, fmt.Sprintf("plugin %.40q is not there: leave it out", name))
		}
	}
}

func tables(v any) (l []map[string]any, ok bool) {
	switch t := v.(type) {
	case []map[string]any:
		return t, true
	case []any:
		for _, e := range t {
			m, _ := e.(map[string]any)
			l = append(l, m)
		}
		return l, true
	}
	return nil, false
}

func (r *reader) provisioner(at string, p map[string]any) {
	r.c.ProvisionerKeyLength = provisioner.DefaultKeyLength
	for k, v := range p {
		switch k {
		case "name":
		case "key_length":
			if n, ok := r.number(at+"."+k, v); ok {
				if r.c.ProvisionerKeyLength = int(n); n <= 0 || n > 1<<16 {
					r.refuse(at+"."+k, "no length of a key")
				}
			}
		default:
			r.refuse(at+"."+k, "unknown key")
		}
	}
}

func (r *reader) nebula(at string, p map[string]any) {
	const inside = "certificates are made in this process"
	r.c.Nebula = &nebulaca.Config{}
	for k, v := range p {
		switch k {
		case "name":
		case "nebula_cert_bin_path":
			r.note(at+"."+k, inside)
		case "work_dir":
			r.c.Nebula.Folder = r.text(at+"."+k, v)
			r.note(at+"."+k, "an authority that is there is taken over once, for the default namespace; then it is in this trustee's store")
		case "ca_config", "self_signed_ca": // its two published names
			m, ok := v.(map[string]any)
			if !ok {
				r.refuse(at+"."+k, "not a table")
			}
			for key, v := range m {
				r.authority(at+"."+k+"."+key, key, v)
			}
		default:
			r.refuse(at+"."+k, "unknown key")
		}
	}
}

func (r *reader) authority(at, key string, v any) {
	switch key {
	case "argon_iterations", "argon_memory", "argon_parallelism":
		r.note(at, "the authority's key is in this trustee's store, encrypted under the envelope key")
	case "out_qr":
		r.note(at, "no image is written")
	case "name", "curve", "duration", "groups", "ips", "subnets":
		if err := r.c.Nebula.Set(key, r.text(at, v)); err != nil {
			r.refuse(at, err.Error())
		}
	default:
		r.refuse(at, "unknown key")
	}
}

// external takes the backends of the plugin that others serve over gRPC.
func (r *reader) external(at string, p map[string]any) {
	for k := range p {
		if k != "name" && k != "backends" {
			r.refuse(at+"."+k, "unknown key")
		}
	}
	l, _ := tables(p["backends"])
	if len(l) == 0 {
		r.refuse(at+".backends", "not a list of tables")
	}
	for i, m := range l {
		here := fmt.Sprintf("%s.backends[%d]", at, i)
		var b plugin.Backend
		for k, v := range m {
			switch k {
			case "name":
				b.Name = r.text(here+"."+k, v)
			case "endpoint":
				b.Endpoint = r.text(here+"."+k, v)
			case "ca_cert_path":
				b.CAFile = r.text(here+"."+k, v)
			case "timeout_ms":
				if n, ok := r.number(here+"."+k, v); ok {
					b.Timeout = time.Duration(n) * time.Millisecond
				}
			default:
				r.refuse(here+"."+k, "unknown key")
			}
		}
		if b.Name == "" || b.Endpoint == "" {
			r.refuse(here, "name and endpoint are needed")
		}
		r.c.Plugins = append(r.c.Plugins, b)
	}
}

// pkcs11 is another process here, since it loads the module's library.
func (r *reader) pkcs11(at string, p map[string]any) {
	r.c.PKCS11 = true
	for k := range p {
		switch k {
		case "name":
		case "module", "slot_index", "pin", "rsa_mechanism", "lookup_label":
			r.note(at+"."+k, "coffer-pkcs11 plugin has it as a flag, and is another process: --plugin pkcs11=unix:///...")
		default:
			r.refuse(at+"."+k, "unknown key")
		}
	}
}
