"""Twenty sentences of medicine, law and finance, as an embedding would meet them.

Every batch has sentences of the same five lengths (8, 10, 12, 14 and 20 tokens), so that all share one program.
"""

BATCHES = (
    (
        "The patient denies chest pain.",
        "Quarterly revenue fell short of the forecast.",
        "This agreement is governed by the laws of Scotland.",
        "He has a family history of early heart disease and stroke.",
        "The auditor found that two large invoices had been paid to the same supplier twice.",
    ),
    (
        "The defendant pleaded not guilty.",
        "Take one tablet twice daily with food.",
        "Investors sold bonds as inflation rose again in March.",
        "The witness could not identify the driver of the stolen car.",
        "The wound was cleaned, closed with six sutures and covered with a clean dry dressing.",
    ),
    (
        "The bank raised interest rates.",
        "The court granted the motion to dismiss.",
        "Her blood pressure fell after the second dose today.",
        "The lender may call in the loan at any time.",
        "The appeal was dismissed because the notice had been filed two full days after the legal deadline.",
    ),
    (
        "Shares fell by nine percent.",
        "Both lungs are clear on the scan.",
        "The judge will hear the appeal early next month.",
        "A tenant who stays beyond the term must pay double rent.",
        "Her blood sugar has been very poorly controlled since the dose of insulin was reduced last month.",
    ),
)
