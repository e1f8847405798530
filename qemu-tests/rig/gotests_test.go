package rig

import (
	"strings"
	"testing"
)

// events are lines of `go test -json`, shortened.
const events = `{"ImportPath":"m/b","Action":"build-output","Output":"b.go:1:24: cannot use\n"}
{"ImportPath":"m/b","Action":"build-fail"}
{"Action":"output","Package":"m/b","Output":"FAIL\tm/b [build failed]\n"}
{"Action":"fail","Package":"m/b","FailedBuild":"m/b"}
{"Action":"output","Package":"m/n","Output":"?   \tm/n\t[no test files]\n"}
{"Action":"skip","Package":"m/n"}
{"Action":"output","Package":"m/p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/p","Test":"TestGood","Output":"noise\n"}
{"Action":"pass","Package":"m/p","Test":"TestGood"}
{"Action":"output","Package":"m/p","Test":"TestBad/x","Output":"    p_test.go:4: before\n"}
{"Action":"output","Package":"m/p","Test":"TestBad/x","Output":"    p_test.go:5: no x here: none\n"}
{"Action":"output","Package":"m/p","Test":"TestBad/x","Output":"        at all\n"}
{"Action":"output","Package":"m/p","Test":"TestBad/x","Output":"--- SKIP: TestBad/x (0.00s)\n"}
{"Action":"skip","Package":"m/p","Test":"TestBad/x"}
{"Action":"output","Package":"m/p","Test":"TestBad/y","Output":"    p_test.go:6: bad y\n"}
{"Action":"fail","Package":"m/p","Test":"TestBad/y"}
{"Action":"output","Package":"m/p","Test":"TestBad","Output":"--- FAIL: TestBad (0.00s)\n"}
{"Action":"fail","Package":"m/p","Test":"TestBad"}
{"Action":"output","Package":"m/p","Output":"FAIL\tm/p\t0.1s\n"}
{"Action":"fail","Package":"m/p"}
{"Action":"output","Package":"m/q","Test":"TestExits","Output":"last words\n"}
{"Action":"output","Package":"m/q","Output":"FAIL\tm/q\t0.1s\n"}
{"Action":"fail","Package":"m/q"}
the go command complains
{"Action":"output","Package":"m/ok","Output":"ok  \tm/ok\t0.1s\n"}
{"Action":"pass","Package":"m/ok"}`

func TestGoTestsAreCountedAndTheirFailuresShown(t *testing.T) {
	var out strings.Builder
	r, err := readGoTests(strings.NewReader(events), &out)
	if err != nil {
		t.Fatal(err)
	}
	if r.Packages != 4 || r.Passed != 1 || r.Failed != 3 {
		t.Errorf("%+v", r)
	}
	if len(r.Skipped) != 1 || r.Skipped[0] != (GoSkip{"m/p", "TestBad/x", "no x here: none at all"}) {
		t.Errorf("skipped: %q", r.Skipped)
	}
	for _, want := range []string{"b.go:1:24: cannot use\nFAIL\tm/b [build failed]\n", "[no test files]\n", "    p_test.go:6: bad y\n--- FAIL: TestBad (0.00s)\nFAIL\tm/p\t0.1s\n",
		"last words\n", "the go command complains\n", "ok  \tm/ok\t0.1s\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not shown in\n%s", want, &out)
		}
	}
	for _, quiet := range []string{"noise", "=== RUN", "no x here"} {
		if strings.Contains(out.String(), quiet) {
			t.Errorf("%q is shown in\n%s", quiet, &out)
		}
	}
	var table strings.Builder
	GoTable(&table, r)
	if !strings.HasPrefix(table.String(), "Go tests: 1 passed, 3 failed, 1 skipped, in 4 packages\n") || !strings.Contains(table.String(), "m/p: TestBad/x: no x here: none at all\n") {
		t.Errorf("table:\n%s", &table)
	}
}
