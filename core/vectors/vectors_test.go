// SPDX-License-Identifier: Apache-2.0

package vectors_test

import (
	"errors"
	"fmt"

	"github.com/conclave-mls/conclave/core/vectors"
)

func ExampleReport() {
	report := &vectors.Report{Type: "sums"}
	for _, result := range []error{
		nil,
		errors.New("2 + 2 is 5, want 4"),
		fmt.Errorf("case of 1999: %w", vectors.Skip("Roman numerals are not implemented")),
		nil,
	} {
		report.Add(result)
	}
	fmt.Println(report.Type, "passed", report.Passed)
	for _, o := range report.Failed {
		fmt.Println("case", o.Case, "failed:", o.Err)
	}
	for _, o := range report.Skipped {
		fmt.Println("case", o.Case, "skipped:", o.Err)
	}
	// Output:
	// sums passed 2
	// case 1 failed: 2 + 2 is 5, want 4
	// case 2 skipped: case of 1999: Roman numerals are not implemented
}
