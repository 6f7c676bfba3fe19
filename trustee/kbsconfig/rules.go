package kbsconfig

import (
	"fmt"
	"net"
	"strings"
)

// rule says what a setting means.
type rule func(r *reader, name string, v any)

// rules lists every key that the existing service knows. It is filled at the start,
// because the rules and the search for sections refer to each other.
var rules map[string]rule

func init() {
	const (
		verifier = "collateral is fetched ahead (--fetch) or imported (--collateral, coffer collateral import); nothing is fetched while evidence is judged"
		rvps     = "reference values are in this trustee's store; bring over what another service holds with coffer-trustee import"
		issuer   = "tokens name this trustee; relying parties verify them by its key set (/.well-known/jwks.json) or its CA (client.json)"
		pool     = "not needed: evidence is judged in this process"
	)
	rules = map[string]rule{
		"http_server.sockets":              sockets,
		"http_server.insecure_http":        falseOnly("plain HTTP is not served: leave it out. Without certificate and private_key this trustee makes a certificate under a CA of its own (client.json)"),
		"http_server.certificate":          func(r *reader, n string, v any) { r.c.CertFile = r.text(n, v) },
		"http_server.private_key":          func(r *reader, n string, v any) { r.c.KeyFile = r.text(n, v) },
		"http_server.payload_request_size": bodies,
		"http_server.worker_count":         noted("the number of workers is the machine's"),
		"http_server.tls_profile":          func(r *reader, n string, v any) { r.c.TLS.profile = r.text(n, v) },
		"http_server.tls_min_version":      func(r *reader, n string, v any) { r.c.TLS.Min = r.version(n, v) },
		"http_server.tls_max_version":      func(r *reader, n string, v any) { r.c.TLS.Max = r.version(n, v) },
		"http_server.tls_ciphers":          ciphers,
		"http_server.tls_groups":           groups,

		"attestation_token.insecure_header_jwk": falseOnly("anybody could sign tokens: leave it out"),
		"attestation_token.trusted_jwk_sets":    keySets,
		"attestation_token.trusted_certs_paths": func(r *reader, n string, v any) { r.c.TokenCertificates = r.texts(n, v) },
		"attestation_token.extra_teekey_paths":  noted("the key of a TEE is read at its published place in the token alone"),

		"attestation_service.type":      serviceType,
		"attestation_service.timeout":   atLeast(5, "a session is open for 5 minutes"),
		"attestation_service.as_addr":   func(r *reader, n string, v any) { r.c.Attestation = r.text(n, v) },
		"attestation_service.pool_size": noted(pool),

		"attestation_service.attestation_token_broker.duration_min":   atLeast(5, "a token is good for 5 minutes"),
		"attestation_service.attestation_token_broker.issuer_name":    noted(issuer),
		"attestation_service.attestation_token_broker.developer_name": noted(issuer),
		"attestation_service.attestation_token_broker.build_name":     noted(issuer),
		"attestation_service.attestation_token_broker.profile_name":   noted("tokens have the published profile"),
		"attestation_service.attestation_token_broker.verbose_token":  noted("tokens carry what fits into a header"),
		"attestation_service.attestation_token_broker.signer":         noted("tokens are signed by this trustee's own key, which its store keeps encrypted; " + issuer),
		"attestation_service.rvps_config.type":                        referenceType,
		"attestation_service.rvps_config.address":                     noRule, // with the type
		"attestation_service.rvps_config.storage_type":                noted(rvps),
		"attestation_service.rvps_config.extractors":                  noted("messages of every type are read without settings; signatures and expiry are enforced"),
		"attestation_service.verifier_config.snp_verifier":            noted(verifier),
		"attestation_service.verifier_config.dcap_verifier":           noted(verifier),
		"attestation_service.verifier_config.tpm_verifier":            noted("roots of TPMs are the namespace's: coffer root add"),
		"attestation_service.verifier_config.nvidia_verifier":         nvidia,
		"attestation_service.verifier_config.nvidia_dpu_verifier":     noted("roots of DPUs are the namespace's: coffer anchor put"),
		"attestation_service.base_url":                                intel,
		"attestation_service.api_key":                                 intel,
		"attestation_service.certs_file":                              intel,
		"attestation_service.policy_ids":                              intel,
		"attestation_service.allow_unmatched_policy":                  intel,
		"admin.authorization_mode":                                    noRule, // these three are read as a whole: (*reader).admin
		"admin.authentication.bearer_jwt.identity_providers":          noRule,
		"admin.authorization.regex_acl.acls":                          noRule,
		"storage_backend.storage_type":                                storage,
		"storage_backend.backends.local_fs.dir_path":                  noted("nothing is read from there while serving: coffer-trustee import --from it once"),
		"storage_backend.backends.local_json.file_dir_path":           noted("nothing is read from there while serving: coffer-trustee import --from it once"),
		"storage_backend.backends.postgres":                           refused(elsewhere),
		"storage_backend.backends.redis":                              refused(elsewhere),
		"session_storage_type":                                        noted("sessions are in this trustee's own store, and survive a restart"),
		"attestation_service.storage_backend":                         noted(rvps),
		"attestation_service.rvps_config.storage_backend":             noted(rvps),
		"attestation_service.rvps_config.backends":                    noted(rvps),
		"attestation_service.rvps_config.storage":                     noted(rvps),
		"attestation_service.attestation_token_broker.type":           brokerType,
	}
}

// elsewhere is what becomes of a store on another machine.
const elsewhere = "nothing is read from there while serving: bring it over once with coffer-trustee import --from, and leave this out; the state is in --state, or in --database"

func noRule(*reader, string, any) {}

func noted(why string) rule { return func(r *reader, n string, _ any) { r.note(n, why) } }

func refused(why string) rule { return func(r *reader, n string, _ any) { r.refuse(n, why) } }

func falseOnly(why string) rule {
	return func(r *reader, n string, v any) {
		if r.boolean(n, v) {
			r.refuse(n, "true is insecure: "+why)
		}
	}
}

// atLeast refuses a shorter time than ours: whoever asked for it would be let in
// for longer.
func atLeast(minutes int64, what string) rule {
	return func(r *reader, n string, v any) {
		m, ok := r.number(n, v)
		switch {
		case !ok || m == minutes:
		case m < minutes:
			r.refuse(n, what+", and no shorter time can be set")
		default:
			r.note(n, what)
		}
	}
}

func sockets(r *reader, name string, v any) {
	l := r.texts(name, v)
	if len(l) != 1 {
		r.refuse(name, "exactly one address is served; 0.0.0.0 and [::] take all of the machine's")
		return
	}
	if _, _, err := net.SplitHostPort(l[0]); err != nil {
		r.refuse(name, err.Error())
		return
	}
	r.c.Listen = l[0]
}

func bodies(r *reader, name string, v any) {
	if n, ok := r.number(name, v); ok && n != 2 {
		r.refuse(name, "a body may have 2 MiB, and no other limit can be set")
	}
}

func serviceType(r *reader, name string, v any) {
	switch t := r.text(name, v); t {
	case "coco_as_builtin":
		if _, ok := r.values["attestation_service.as_addr"]; ok {
			r.refuse("attestation_service.as_addr", "belongs to type coco_as_grpc: leave it out")
		}
	case "coco_as_grpc":
		if _, ok := r.values["attestation_service.as_addr"]; !ok {
			r.c.Attestation = "http://127.0.0.1:50004" // as published
		}
	case trustAuthority:
		for _, needed := range []string{"base_url", "api_key", "certs_file"} {
			if _, ok := r.values["attestation_service."+needed]; !ok {
				r.refuse("attestation_service."+needed, "type intel_ta needs it")
			}
		}
		if _, ok := r.values["attestation_service.as_addr"]; ok {
			r.refuse("attestation_service.as_addr", "belongs to type coco_as_grpc: leave it out")
		}
	default:
		r.refuse(name, fmt.Sprintf("%.40q is none of coco_as_builtin, coco_as_grpc, intel_ta", t))
	}
}

// keySets takes files: a set that has to be fetched would have evidence wait for
// whoever serves it.
func keySets(r *reader, name string, v any) {
	if r.values["attestation_service.type"] == trustAuthority {
		r.note(name, "tokens of Intel Trust Authority are verified by certs_file alone, and guests get this trustee's own")
		return
	}
	for _, u := range r.texts(name, v) {
		if !strings.HasPrefix(u, "file:///") {
			r.refuse(name, fmt.Sprintf("%.80q: no key set is fetched; put it into a file (file:///...), or name the authority of its certificates in trusted_certs_paths", u))
			continue
		}
		r.c.TokenKeySets = append(r.c.TokenKeySets, u)
	}
}

const trustAuthority = "intel_ta"

// intel takes the settings of Intel Trust Authority, where that is the type.
func intel(r *reader, name string, v any) {
	if r.values["attestation_service.type"] != trustAuthority {
		r.refuse(name, "belongs to type intel_ta: leave it out")
		return
	}
	o := &r.c.TrustAuthority
	switch strings.TrimPrefix(name, "attestation_service.") {
	case "base_url":
		o.URL = r.text(name, v)
	case "api_key":
		o.APIKey = r.text(name, v)
	case "certs_file":
		o.Keys = r.text(name, v)
	case "policy_ids":
		o.Policies = r.texts(name, v)
	case "allow_unmatched_policy":
		o.AllowUnmatched = r.boolean(name, v)
	}
}

// referenceType says where reference values are.
func referenceType(r *reader, name string, v any) {
	const at = "attestation_service.rvps_config.address"
	address, given := r.values[at]
	switch t := r.text(name, v); t {
	case "BuiltIn":
		if given {
			r.refuse(at, "belongs to type GrpcRemote: leave it out")
		}
	case "GrpcRemote":
		if r.c.ReferenceValues = "http://127.0.0.1:50003"; given {
			r.c.ReferenceValues = r.text(at, address)
		}
		if !strings.Contains(r.c.ReferenceValues, "://") { // as published
			r.c.ReferenceValues = "http://" + r.c.ReferenceValues
		}
	default:
		r.refuse(name, fmt.Sprintf("%.40q is neither BuiltIn nor GrpcRemote", t))
	}
}

func brokerType(r *reader, name string, v any) {
	if t := r.text(name, v); t != "Ear" {
		r.refuse(name, fmt.Sprintf("%.40q: tokens are of type Ear", t))
	}
}

func nvidia(r *reader, name string, v any) {
	m, _ := v.(map[string]any)
	if t, _ := m["type"].(string); t == "Remote" {
		r.refuse(name, "evidence of GPUs is verified in this process, never by NVIDIA's service: leave it out")
		return
	}
	r.note(name, "evidence of GPUs is verified in this process")
}

func storage(r *reader, name string, v any) {
	switch t := strings.ReplaceAll(strings.ToLower(r.text(name, v)), "_", ""); t {
	case "memory":
		r.note(name, "the state is in the folder --state, and survives a restart")
	case "localfs", "localjson":
		r.note(name, "the state is in the folder --state; bring over what is there with coffer-trustee import")
	case "postgres", "redis":
		r.refuse(name, elsewhere)
	default:
		r.refuse(name, fmt.Sprintf("%.40q is no storage type of the existing service", t))
	}
}

func (r *reader) certificate() {
	if (r.c.CertFile == "") != (r.c.KeyFile == "") {
		r.refuse("http_server.certificate", "certificate and private_key come together or not at all")
	}
}
