"""Claims: each compares rows and columns that exist, and says what counts and what would contradict it."""

from icecore.paper.claims import CLAIMS
from icecore.paper.paper_tables import STUDIES
from icecore.report.claim_records import quantity_of


def test_claims_name_rows_columns_and_parts_that_exist() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        for rows in claim.rows:
            assert set(rows.columns) <= set(STUDIES[rows.first.study].columns), claim.name
            for part in (rows.first, rows.second):
                study = STUDIES[part.study]
                assert study.rows[part.row].settings, claim.name
                assert part.part in quantity_of(study).parts, claim.name
            assert rows.first != rows.second, claim.name
        assert len({rows.label for rows in claim.rows}) == len(claim.rows), claim.name


def test_claims_are_sentences_with_a_margin() -> None:
    for claim in CLAIMS:
        assert claim.statement.endswith("."), claim.name
        assert claim.contradicted, claim.name
        assert claim.margin > (1.0 if claim.measure == "examples" else 0.0), claim.name


def test_every_table_and_figure_of_the_paper_has_a_claim() -> None:
    claimed = {rows.first.study for claim in CLAIMS for rows in claim.rows}
    of_the_paper = {name for name in STUDIES if name.startswith("table")} | {"attention", "rebuttal"}
    assert of_the_paper <= claimed
