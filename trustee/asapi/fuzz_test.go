package asapi

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/aspb"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// FuzzEvaluation: no body of POST /attestation and no message of gRPC panics, and
// what is taken is within its bounds.
func FuzzEvaluation(f *testing.F) {
	f.Add([]byte(`{"verification_requests":[{"tee":"snp","evidence":"e30"}],"policy_ids":[]}`))
	f.Add([]byte(`{"verification_requests":[{"tee":"snp","evidence":"e30","runtime_data":{"raw":"AAAA"},"init_data":{"init_data_digest":"AA"}}],"policy_ids":["default"]}`))
	f.Add([]byte(`{"verification_requests":[{"tee":"tdx","evidence":"e30=","runtime_data":{"structured":{"nonce":"x"}},"init_data":{"init_data_toml":"x"},"runtime_data_hash_algorithm":"sha256"}],"policy_ids":[]}`))
	m, err := proto.Marshal(&aspb.AttestationRequest{VerificationRequests: []*aspb.IndividualAttestationRequest{{
		Tee: "snp", Evidence: "e30", RuntimeData: &aspb.IndividualAttestationRequest_RawRuntimeData{RawRuntimeData: "AAAA"},
		InitData: &aspb.IndividualAttestationRequest_InitDataDigest{InitDataDigest: "AA"},
	}}, PolicyIds: []string{"default"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := DecodeEvaluation(b); err == nil && len(e.Requests) > maxRequests {
			t.Errorf("%d requests", len(e.Requests))
		}
		m := new(aspb.AttestationRequest)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		if e, err := evaluationOf(m); err == nil && len(e.Requests) > maxRequests {
			t.Errorf("%d requests", len(e.Requests))
		}
	})
}

// FuzzMessage: what is taken from a message can be kept as a bundle.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"version":"0.1.0","type":"sample","payload":"eyJhIjpbMV19"}`))
	f.Add([]byte(`{"type":"swid","payload":""}`))
	f.Add([]byte(`{"type":"corim","payload":"2QH1oA=="}`))
	f.Add([]byte(`{"type":"sample","payload":"eyJhIjpudWxsfQ=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		if (m.Document == nil) != (m.Format == "") {
			t.Errorf("%+v", m)
		}
		if m.Document != nil {
			if name, _, err := tenant.DocumentName(m.Document); err == nil && name == "" {
				t.Error("a document without a name")
			}
			return
		}
		values := m.Values
		doc, err := (&refvalue.Bundle{Version: refvalue.Version, Values: values}).Encode()
		if err == nil {
			_, err = refvalue.Parse(doc)
		}
		if err != nil || len(values) == 0 {
			t.Errorf("taken, and no bundle: %v", err)
		}
	})
}
