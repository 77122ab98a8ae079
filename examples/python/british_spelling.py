"""American words and their British spelling.

Words whose spelling depends on their meaning are left out: practice, license, check, meter, program, tire.
"""


def inflections(stems, american, british, endings):
    """Words of a stem, the letters in which they differ, and each of the endings. A hyphen stands for none."""
    endings = [ending.strip("-") for ending in endings.split()]
    return {stem + american + ending: stem + british + ending for stem in stems.split() for ending in endings}


IZE = """agon anonym antagon apolog author brutal capital caramel categor central character civil colon commercial
    conceptual critic crystall custom decentral demoral desensit digit disorgan dramat econom emphas empath energ equal
    familiar fantas fertil final formal general global harmon hospital human hybrid hypothes ideal idol immun individual
    industrial initial internal item jeopard legal liberal local magnet marginal material maxim mechan memor mesmer
    metabol minim mobil modern moistur monet natural neutral normal optim organ ostrac oxid pasteur penal personal
    plagiar polar popular priorit privat public random rational real recogn reorgan revital revolution sanit scrutin
    sensit social special stabil standard steril strateg styl subsid summar symbol sympath synchron synthes tantal
    tender terror theor traumat trivial unauthor unorgan unrecogn vandal verbal victim visual vocal"""
OUR = """ard arm behavi cand clam col demean discol dishon endeav fav ferv flav glam harb hon hum lab misbehavi
    multicol neighb od parl ranc rig rum sav savi splend tum unfav val vap vig watercol"""
LL = """barrel cancel carol channel chisel counsel dial duel enamel equal fuel funnel initial jewel label level marvel
    model panel pedal quarrel refuel relabel remodel revel rival shovel signal snorkel spiral stencil swivel total towel
    travel tunnel unravel"""
BRITISH = {
    **inflections(IZE, "iz", "is", "e es ed er ers ing able ation ations ational"),
    **inflections("anal catal paral", "yz", "ys", "e es ed er ers ing"),
    **inflections(OUR, "or", "our", "- s ed ing ings er ers ful fully less able ably al ally hood hoods ly ite ites y"),
    **inflections(LL, "", "l", "ed ing ings er ers or ors ous ously"),
    **inflections("fulfil enrol instil distil", "l", "", "- s ment ments"),
    **inflections("skil wil instal", "l", "", "ful fully ment ments"),
    **inflections("cent theat fib lit calib meag somb spect lust kilomet centimet millimet millilit", "er", "re",
                  "- s piece pieces glass"),
    **inflections("cent", "er", "r", "ed ing"),
    **inflections("def off pret", "ense", "ence", "- s less"),
    **inflections("catal dial anal", "og", "ogue", "- s"),
    **inflections("gr", "ay", "ey", "- s ed ing er est ish"),
    **inflections("m sm", "old", "ould", "- s y ed er ing"),
    **inflections("pl", "ow", "ough", "- s ed ing"),
    **inflections("m", "om", "um", "- s my mies"),
    **inflections("co", "z", "s", "y ier iest iness ily"),
    **inflections("s", "k", "c", "eptic eptics eptical eptically epticism"),
    **inflections("an", "e", "ae", "mia mic sthesia sthetic"),
    **inflections("p", "e", "ae", "diatric diatrics diatrician diatricians"),
    **inflections("s", "ulf", "ulph", "ur uric ide ate ates"),
    **inflections("math toward afterward", "", "s", "-"),
    **dict(pair.split(":") for pair in """aging:ageing airplane:aeroplane airplanes:aeroplanes aluminum:aluminium
        artifact:artefact artifacts:artefacts diarrhea:diarrhoea donut:doughnut donuts:doughnuts estrogen:oestrogen
        hemoglobin:haemoglobin jewelry:jewellery leukemia:leukaemia licorice:liquorice maneuver:manoeuvre
        maneuvers:manoeuvres mustache:moustache mustaches:moustaches omelet:omelette omelets:omelettes
        orthopedic:orthopaedic pajamas:pyjamas specialty:speciality specialties:specialities""".split()),
}  # fmt: skip
