package policy

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/test/vectors"
)

// good is, for each TEE, evidence and reference values that the default policy
// affirms; every entry of bad, put in the place it names, takes the claim away.
var good = []struct {
	tee, class string
	claims     string
	refs       string
	want       ear.Vector
	bad        map[string]string // "path=JSON" to the claim that must not be affirmed
}{
	{
		"snp", "cpu", `{"measurement":"aa","reported_tcb_bootloader":3,"reported_tcb_microcode":72,"reported_tcb_snp":8,"reported_tcb_tee":0,
		"policy_debug_allowed":false,"policy_migrate_ma":false,"platform_smt_enabled":true,"platform_tsme_enabled":false,"policy_abi_major":0,
		"policy_abi_minor":31,"policy_single_socket":false,"policy_smt_allowed":true}`,
		`{"snp_launch_measurement":["aa"],"snp_bootloader":[3],"snp_microcode":[72],"snp_snp_svn":[8],"snp_tee_svn":[0],"snp_smt_enabled":[true],
		"snp_tsme_enabled":[false],"snp_guest_abi_major":[0],"snp_guest_abi_minor":[31],"snp_single_socket":[false],"snp_smt_allowed":[true]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`measurement="bb"`: "executables", `reported_tcb_snp=7`: "hardware", `reported_tcb_bootloader=2`: "hardware",
			`policy_debug_allowed=true`: "configuration", `policy_migrate_ma=true`: "configuration",
		},
	},
	{
		"tdx", "cpu", `{"quote":{"header":{"tee_type":"81000000","vendor_id":"939a7233f79c4ca9940a0db3957f0607"},"body":{"mr_td":"aa","rtmr_1":"b1","rtmr_2":"b2","xfam":"e7"}},
		"tcb_status":"UpToDate","collateral_expiration_status":"0","td_attributes":{"debug":false},"uefi_event_logs":[
		{"type_name":"EV_EFI_BOOT_SERVICES_APPLICATION","details":{"device_paths":["File(kernel)"]},"digests":[{"alg":"SHA-384","digest":"c1"}]},
		{"type_name":"EV_EVENT_TAG","details":{"string":"LOADED_IMAGE::LoadOptions"},"digests":[{"alg":"SHA-384","digest":"c2"}]}]}`,
		`{"mr_td":["aa"],"rtmr_1":["b1"],"rtmr_2":["b2"],"xfam":["e7"],"tdvfkernel":["c1"],"tdvfkernelparams":"c2"}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`quote.body.rtmr_1="00"`: "executables", `quote.body.rtmr_2="00"`: "executables", `quote.body.mr_td="00"`: "hardware",
			`tcb_status="OutOfDate"`: "hardware", `collateral_expiration_status="1"`: "hardware", `td_attributes.debug=true`: "configuration",
			`quote.body.xfam="ff"`: "configuration", `quote.header.vendor_id="00"`: "hardware",
		},
	},
	{
		"sgx", "cpu", `{"header":{"vendor_id":"939a7233f79c4ca9940a0db3957f0607"},"body":{"mr_enclave":"aa","mr_signer":"bb","isv_prod_id":"0000","isv_svn":"0100",
		"attributes.flags":"0500000000000000"},"tcb_status":"UpToDate","collateral_expiration_status":"0"}`,
		`{"sgx_mr_enclave":["aa"],"sgx_attributes_flags":["0500000000000000"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`body.mr_enclave="ab"`: "executables", `tcb_status="OutOfDate"`: "hardware", `collateral_expiration_status="1"`: "hardware",
			`body={"attributes.flags":"0700000000000000"}`: "configuration",
		},
	},
	{
		"az-snp-vtpm", "cpu", `{"measurement":"qg==","tpm":{"pcr04":"44","pcr11":"11","pcr12":"00"},"reported_tcb_bootloader":"3","reported_tcb_microcode":"115","reported_tcb_snp":"8","reported_tcb_tee":"0",
		"policy_debug_allowed":"false","policy_migrate_ma":"false","platform_smt_enabled":"true","platform_tsme_enabled":"false","policy_abi_major":"0","policy_abi_minor":"31",
		"policy_single_socket":"false","policy_smt_allowed":"true"}`,
		`{"measurement":["qg=="],"snp_pcr4":["44"],"snp_pcr11":["11"],"tcb_bootloader":["3"],"tcb_microcode":["115"],"tcb_snp":["8"],"tcb_tee":["0"],"smt_enabled":["true"],"tsme_enabled":["false"],
		"abi_major":["0"],"abi_minor":["31"],"single_socket":["false"],"smt_allowed":["true"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`tpm.pcr04="00"`: "executables", `tpm.pcr11="00"`: "executables", `tpm.pcr12="12"`: "executables", `measurement="qh=="`: "executables", `reported_tcb_snp="7"`: "hardware", `policy_debug_allowed="true"`: "configuration",
		},
	},
	{
		"az-tdx-vtpm", "cpu", `{"quote":{"header":{"tee_type":"81000000","vendor_id":"939a7233f79c4ca9940a0db3957f0607"},"body":{"mr_td":"aa","xfam":"e7"}},
		"tcb_status":"UpToDate","collateral_expiration_status":"0","td_attributes":{"debug":false},"tpm":{"pcr04":"44","pcr11":"11","pcr12":"12"}}`,
		`{"mr_td":["aa"],"xfam":["e7"],"tdx_pcr4":["44"],"tdx_pcr11":["11"],"tdx_pcr12":["12"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`tpm.pcr04="00"`: "executables", `tpm.pcr11="00"`: "executables", `tpm.pcr12="13"`: "executables", `td_attributes.debug=true`: "configuration", `tcb_status="Revoked"`: "hardware"},
	},
	{
		"tpm", "cpu", `{"ak_public":"key","ak_name":"000b","ek_root":"ff","pcr11":"11","reference":{"image":"release"},"initdata_digest":"00"}`, `{}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2, InstanceIdentity: 2},
		map[string]string{`reference={"image":"sim-debug"}`: "configuration", `reference={}`: "executables"},
	},
	{
		"cca", "cpu", `{"realm":{"cca-realm-initial-measurement":"aa"},"platform":{"cca-platform-implementation-id":"bb","cca-platform-lifecycle":12288,
		"cca-platform-config":"AQID","cca-platform-sw-components":[{"measurement-value":"m1"},{"measurement-value":"m2"}]}}`,
		`{"cca_realm_initial_measurement":["aa"],"cca_platform_implementation_id":["bb"],"cca_platform_sw_components":["m1","m2"],"cca_platform_config":["AQID"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`realm={"cca-realm-initial-measurement":"00"}`: "executables",
			`platform={"cca-platform-implementation-id":"bb","cca-platform-lifecycle":12288,"cca-platform-sw-components":[{"measurement-value":"m1"},{"measurement-value":"m3"}]}`: "hardware",
			`platform={"cca-platform-implementation-id":"bb","cca-platform-lifecycle":20480,"cca-platform-config":"AQID"}`:                                                         "configuration",
		},
	},
	{
		"csv", "cpu", `{"measure":"aa","policy":{"nodbg":1,"noks":1,"es":1,"nosend":1,"hsk_version":0,"cek_version":0}}`,
		`{"csv_measure":["aa"],"csv_hsk_version":[0],"csv_cek_version":[0]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`measure="ab"`: "executables", `policy.nodbg=0`: "configuration", `policy.hsk_version=1`: "hardware"},
	},
	{
		"se", "cpu", `{"tag":"t","attestation_phkh":"a","image_phkh":"i","version":256}`,
		`{"se_tag":["t"],"se_attestation_phkh":["a"],"se_image_phkh":["i"],"se_version":[256]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`tag="u"`: "executables", `image_phkh="j"`: "hardware", `version=1`: "configuration"},
	},
	{
		"nitro", "cpu", `{"kind":"enclave","module_id":"i-0","pcrs":{"pcr0":"aa","pcr1":"bb","pcr2":"cc"}}`,
		`{"nitro_pcr0":["aa"],"nitro_pcr1":["bb"],"nitro_pcr2":["cc"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`pcrs.pcr2="00"`: "executables", `kind="nitrotpm"`: "executables", `pcrs={"pcr0":"000000"}`: "configuration"},
	},
	{
		"nitro", "cpu", `{"kind":"nitrotpm","module_id":"i-0","pcrs":{"pcr4":"a4","pcr7":"a7","pcr9":"a9","pcr11":"ab"}}`,
		`{"nitrotpm_pcr4":["a4"],"nitrotpm_pcr7":["a7"],"nitrotpm_pcr9":["a9"],"nitrotpm_pcr11":["ab"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`pcrs.pcr4="00"`: "executables", `kind="enclave"`: "executables"},
	},
	{
		"gcp", "cpu", `{"hardware":"snp","measurement":"aa","tpm":{"pcr04":"44","pcr11":"11","pcr12":"00"},"reported_tcb_bootloader":3,"reported_tcb_microcode":72,"reported_tcb_snp":8,"reported_tcb_tee":0,
		"policy_debug_allowed":false,"policy_migrate_ma":false}`,
		`{"snp_launch_measurement":["aa"],"gcp_pcr4":["44"],"gcp_pcr11":["11"],"snp_bootloader":[3],"snp_microcode":[72],"snp_snp_svn":[8],"snp_tee_svn":[0]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 3},
		map[string]string{`measurement="bb"`: "executables", `tpm.pcr11="00"`: "executables", `reported_tcb_snp=7`: "hardware", `policy_debug_allowed=true`: "configuration"},
	},
	{
		"gcp", "cpu", `{"hardware":"tdx","quote":{"header":{"tee_type":"81000000"},"body":{"mr_td":"aa","xfam":"e7"}},"tpm":{"pcr04":"44","pcr11":"11","pcr12":"00"},
		"tcb_status":"UpToDate","collateral_expiration_status":"0","td_attributes":{"debug":false}}`,
		`{"mr_td":["aa"],"gcp_pcr4":["44"],"gcp_pcr11":["11"],"xfam":["e7"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`tpm.pcr04="00"`: "executables", `tpm.pcr12="12"`: "executables", `tcb_status="OutOfDate"`: "hardware", `td_attributes.debug=true`: "configuration"},
	},
	{
		"sample", "cpu", `{"launch_digest":"abcde","svn":"1","platform_version":{"major":1,"minor":4},"debug":false}`,
		`{"launch_digest":["abcde"],"svn":["1"],"major_version":1,"minimum_minor_version":3}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`launch_digest="x"`: "executables", `platform_version.minor=2`: "hardware", `debug=true`: "configuration"},
	},
	{
		"sampledevice", "gpu", `{"launch_digest":"abcde","svn":"2","debug":false}`, `{"device_svn":["2"],"device_launch_digest":["abcde"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`svn="1"`: "hardware", `launch_digest="x"`: "executables", `debug=true`: "configuration"},
	},
	{
		"nvidia", "gpu", nvidia("gpu", "driver", "vbios"), `{"allowed_vbios_versions":["v1"],"allowed_driver_versions":["d1"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{
			`measres="fail"`: "executables", `dbgstat="enabled"`: "configuration", `secboot=false`: "configuration", `x-nvidia-gpu-arch-check=false`: "hardware",
			`x-nvidia-gpu-driver-rim-signature-verified=false`: "executables",
		},
	},
	{
		"nvidia", "switch", nvidia("switch", "bios"), `{"allowed_switch_bios_versions":["v1"]}`,
		ear.Vector{Executables: 3, Hardware: 2, Configuration: 2},
		map[string]string{`measres="fail"`: "executables", `dbgstat="enabled"`: "configuration", `x-nvidia-switch-arch-check=false`: "hardware"},
	},
	{
		"nvidia", "ppcie", `{"gpu_count":8,"switch_count":4}`, `{}`, ear.Vector{Configuration: 2}, map[string]string{`gpu_count=0`: "configuration"},
	},
	{
		"hygondcu", "dcu", `{"body":{"measure":"aa","chip_id":"c"}}`, `{"dcu_measure":["aa"],"dcu_chip_id":["c"]}`,
		ear.Vector{Executables: 3, Hardware: 2}, map[string]string{`body.measure="00"`: "executables", `body.chip_id="d"`: "hardware"},
	},
	{
		"nvidiadpu", "nvidia-dpu", `{"accumulated_fwid":"aa","device_class":"x","device_serial":"s"}`, `{"dpu_accumulated_fwid":["aa"],"dpu_device_serial":["s"]}`,
		ear.Vector{Executables: 3, Hardware: 2}, map[string]string{`accumulated_fwid="00"`: "executables", `device_serial="t"`: "hardware"},
	},
}

func nvidia(kind string, parts ...string) string {
	p := "x-nvidia-" + kind + "-"
	chain := map[string]any{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}
	m := map[string]any{
		p + "attestation-report-cert-chain": chain, p + "attestation-report-cert-chain-fwid-match": true, p + "attestation-report-parsed": true,
		p + "attestation-report-signature-verified": true, p + "arch-check": true, "secboot": true, "dbgstat": "disabled", "measres": "success",
		p + "vbios-version": "v1", p + "bios-version": "v1", p + "driver-version": "d1",
	}
	for _, part := range parts {
		m[p+part+"-rim-cert-chain"] = chain
		for _, s := range []string{"fetched", "schema-validated", "signature-verified", "version-match", "measurements-available"} {
			m[p+part+"-rim-"+s] = true
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func object(t testing.TB, s string) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return m
}

func TestDefaultsAffirmAndDeny(t *testing.T) {
	for _, c := range good {
		t.Run(c.tee+"/"+c.class, func(t *testing.T) {
			p, err := Default(c.class)
			if err != nil {
				t.Fatal(err)
			}
			refs, err := NewReferences(object(t, c.refs), nil)
			if err != nil {
				t.Fatal(err)
			}
			in := &Input{Evidence: map[string]any{c.tee: object(t, c.claims)}, References: refs, Now: noon}
			v, err := p.Evaluate(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if v.Vector != c.want {
				t.Fatalf("good evidence: %+v, want %+v", v.Vector, c.want)
			}
			for change, claim := range c.bad {
				claims := object(t, c.claims)
				set(t, claims, change)
				in.Evidence = map[string]any{c.tee: claims}
				v, err := p.Evaluate(t.Context(), in)
				if err != nil {
					t.Errorf("%s: %v", change, err)
					continue
				}
				if n := v.Vector.Map()[claim]; ear.TierOf(int8(n)) == ear.Affirming {
					t.Errorf("%s: %s is %d", change, claim, n)
				}
				if v.Vector.Status() == ear.Affirming {
					t.Errorf("%s: affirming", change)
				}
				f, err := p.Explain(t.Context(), in)
				if err != nil || len(f) == 0 {
					t.Errorf("%s: findings %+v, %v", change, f, err)
				}
			}
			// Nothing registered: nothing affirmed that a reference value decides.
			in.Evidence, in.References = map[string]any{c.tee: object(t, c.claims)}, nil
			if v, err := p.Evaluate(t.Context(), in); err != nil || len(object(t, c.refs)) > 0 && v.Vector == c.want {
				t.Errorf("without reference values %+v, %v", v, err)
			}
		})
	}
}

// Where the owner asks for it, an endorsement key needs its maker's good word; an
// enrolled key has none to give.
func TestDefaultAsksForTheMakersLists(t *testing.T) {
	p, err := Default("cpu")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		claims, refs string
		want         int8
	}{
		{`"ek_root":"ff","ek_crl":"good"`, `{"tpm_ek_crl":["good"]}`, 2},
		{`"ek_root":"ff","ek_crl":"absent"`, `{"tpm_ek_crl":["good"]}`, 0},
		{`"ek_root":"ff"`, `{"tpm_ek_crl":["good"]}`, 0},
		{`"ek_root":"ff","ek_crl":"absent"`, `{"tpm_ek_crl":["good","absent"]}`, 2},
		{`"ek_root":"ff","ek_crl":"absent"`, `{}`, 2},
		{`"ek_root":"ff","ek_crl":"absent"`, `{"tpm_ek_crl":[]}`, 0},
		{`"simulated":false`, `{"tpm_ek_crl":["good"]}`, 2}, // enrolled
	} {
		refs, err := NewReferences(object(t, c.refs), nil)
		if err != nil {
			t.Fatal(err)
		}
		claims := object(t, `{"ak_public":"key","ak_name":"000b","reference":{"image":"release"},"initdata_digest":"00",`+c.claims+`}`)
		v, err := p.Evaluate(t.Context(), &Input{Evidence: map[string]any{"tpm": claims}, References: refs, Now: noon})
		if err != nil || (v.Vector.Hardware == 2) != (c.want == 2) || (v.Vector.Status() == ear.Affirming) != (c.want == 2) {
			t.Errorf("%s with %s: %+v, %v", c.claims, c.refs, v, err)
		}
	}
}

// The pod policy that others generate names images and users.
func TestValidatedIdentifiers(t *testing.T) {
	p, err := Default("cpu")
	if err != nil {
		t.Fatal(err)
	}
	for claims, want := range map[string]string{
		`{"agent_policy_claims":{"containers":[{"OCI":{"Annotations":{"io.kubernetes.cri.image-name":"web:1"},"Process":{"User":{"UID":7}}}},{"OCI":{}}]}}`: `{"validated":{"container_images":["web:1"],"container_uids":[7]}}`,
		`{"agent_policy_claims":{}}`: `{"validated":{}}`,
		`{}`:                         `{"validated":{}}`,
		`null`:                       `{"validated":{}}`,
	} {
		v, err := p.Evaluate(t.Context(), &Input{Evidence: map[string]any{"init_data_claims": json.RawMessage(claims)}, Now: noon})
		if err != nil || len(v.Extensions) != 1 || v.Extensions[0].Name != "ear.trustee.identifiers" || v.Extensions[0].Key != -18 {
			t.Errorf("%s: %+v, %v", claims, v, err)
			continue
		}
		if got, _ := json.Marshal(v.Extensions[0].Value); string(got) != want {
			t.Errorf("%s: %s, want %s", claims, got, want)
		}
	}
}

// Reference values of older days are single values.
func TestSingleValues(t *testing.T) {
	c := good[0]
	refs := object(t, c.refs)
	for n, v := range refs {
		if l := v.([]any); n != "snp_launch_measurement" && !strings.HasSuffix(n, "_svn") && n != "snp_bootloader" && n != "snp_microcode" {
			refs[n] = l[0]
		}
	}
	r, err := NewReferences(refs, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Default(c.class)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Evaluate(t.Context(), &Input{Evidence: map[string]any{c.tee: object(t, c.claims)}, References: r, Now: noon})
	if err != nil || v.Vector != c.want {
		t.Errorf("%+v, %v", v, err)
	}
}

// A TEE that a policy does not know is contraindicated.
func TestDefaultsDenyStrangers(t *testing.T) {
	for _, class := range Classes {
		p, err := Default(class)
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.Evaluate(t.Context(), &Input{Evidence: map[string]any{"stranger": map[string]any{}}, Now: noon})
		if err != nil || v.Vector.Status() == ear.Affirming {
			t.Errorf("%s: %+v, %v", class, v, err)
		}
	}
}

// set puts a value at a dotted path; a path that is a member as it stands wins.
func set(t *testing.T, m map[string]any, change string) {
	t.Helper()
	path, raw, _ := strings.Cut(change, "=")
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatal(err)
	}
	if _, ok := m[path]; ok {
		if o, isObject := v.(map[string]any); isObject && m[path] != nil {
			have, _ := m[path].(map[string]any)
			if path != "reference" && path != "platform" {
				merged := maps.Clone(have)
				maps.Copy(merged, o)
				v = merged
			}
		}
		m[path] = v
		return
	}
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		next, ok := m[k].(map[string]any)
		if !ok {
			t.Fatalf("%s: no object %s", change, k)
		}
		m = next
	}
	m[keys[len(keys)-1]] = v
}

// The claims of a real quote with its event log: of a guest that its host may
// look into, booted by a boot loader.
func TestPublishedTDXClaims(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "tdx"), "parse_tdx_claims_expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	claims := object(t, string(b))
	body := claims["quote"].(map[string]any)["body"].(map[string]any)
	refs, err := NewReferences(map[string]any{
		"rtmr_1": []any{body["rtmr_1"]}, "rtmr_2": []any{body["rtmr_2"]}, "xfam": []any{body["xfam"]}, "mr_td": []any{body["mr_td"]},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Default("cpu")
	if err != nil {
		t.Fatal(err)
	}
	in := &Input{Evidence: map[string]any{"tdx": claims}, References: refs, Now: noon}
	v, err := p.Evaluate(t.Context(), in)
	if err != nil || v.Vector.Executables != 4 || v.Vector.Configuration != 36 || v.Vector.Hardware != 97 {
		t.Errorf("%+v, %v", v, err)
	}
	f, err := p.Explain(t.Context(), in)
	if err != nil || len(f) != 2 || f[0].Field != "tdx.td_attributes.debug" || f[1].Field != "tdx.tcb_status" {
		t.Errorf("%+v, %v", f, err)
	}
}

func BenchmarkDefaultSNP(b *testing.B) {
	c := good[0]
	p, err := Default(c.class)
	if err != nil {
		b.Fatal(err)
	}
	refs, err := NewReferences(object(b, c.refs), nil)
	if err != nil {
		b.Fatal(err)
	}
	in := &Input{Evidence: map[string]any{c.tee: object(b, c.claims)}, References: refs, Now: noon}
	b.ReportAllocs()
	for b.Loop() {
		if v, err := p.run(context.Background(), in); err != nil || v.Vector != c.want {
			b.Fatal(v, err)
		}
	}
}

// BenchmarkDefaultSNPAgain is the same of evidence that a policy was asked about
// before.
func BenchmarkDefaultSNPAgain(b *testing.B) {
	c := good[0]
	p, err := Default(c.class)
	if err != nil {
		b.Fatal(err)
	}
	refs, err := NewReferences(object(b, c.refs), nil)
	if err != nil {
		b.Fatal(err)
	}
	in := &Input{Evidence: map[string]any{c.tee: object(b, c.claims)}, References: refs, Now: noon}
	b.ReportAllocs()
	for b.Loop() {
		if v, err := p.Evaluate(context.Background(), in); err != nil || v.Vector != c.want {
			b.Fatal(v, err)
		}
	}
}
